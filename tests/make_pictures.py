"""Writes tests/golden/pictures/ and pictures.tsv: small PNG, JPEG and BMP files, and what Pillow makes of them.

Run from the repository root with Pillow 12.1.1: python tests/make_pictures.py
Each line of the table: name, width, height, SHA-256 of the RGB bytes; or name and "error". Never from our output.
PNG and BMP files are assembled here, chunk by chunk and field by field, because Pillow cannot write most of the
variants; JPEG files come from Pillow's encoder, some with a few bytes changed afterwards.
"""

import hashlib
import io
import math
import pathlib
import random
import struct
import zlib

import PIL
from PIL import Image, ImageOps

GOLDEN = pathlib.Path("tests/golden")
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # samples per pixel, by PNG colour type
ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]

rng = random.Random(7)


# ---- PNG ----


def chunk(name, data, crc=None):
    crc = zlib.crc32(name + data) if crc is None else crc
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", crc)


def ihdr(width, height, depth, colour, interlaced=0, filter_method=0):
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, filter_method, interlaced))


def join(*chunks):
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + chunk(b"IEND", b"")


def rows(width, height, depth, colour, interlaced=0, filters=(0, 1, 2, 3, 4)):
    """Row bytes of a made-up picture: filters in turn, values that are smooth with some noise."""
    out, line = bytearray(), 0
    for x0, y0, dx, dy in ADAM7 if interlaced else [(0, 0, 1, 1)]:
        n = math.ceil((width - x0) / dx) if width > x0 else 0
        for y in range(y0, height if n else 0, dy):
            n_bytes = (n * depth * CHANNELS[colour] + 7) // 8
            out.append(filters[line % len(filters)])
            for i in range(n_bytes):
                out.append((rng.randrange(256) if rng.random() < 0.1 else (i * 3 + y * 5) // 4) & 255)
            line += 1
    return bytes(out)


def palette(n):
    return chunk(b"PLTE", bytes(rng.randrange(256) for _ in range(3 * n)))


def png(width, height, depth, colour, interlaced=0, extra=b"", data=None, level=9, parts=1, **kw):
    z = zlib.compress(rows(width, height, depth, colour, interlaced, **kw), level) if data is None else data
    if colour == 3 and b"PLTE" not in extra:
        extra = palette(1 << depth) + extra
    step = max(1, -(-len(z) // parts))
    idat = b"".join(chunk(b"IDAT", z[i : i + step]) for i in range(0, len(z), step))
    return join(ihdr(width, height, depth, colour, interlaced), extra, idat)


def deflate(data, level=9, strategy=zlib.Z_DEFAULT_STRATEGY, bits=15):
    z = zlib.compressobj(level, zlib.DEFLATED, bits, 9, strategy)
    return z.compress(data) + z.flush()


def png_pictures():
    for depth, colour in [(d, c) for c in (0, 2, 3, 4, 6) for d in (1, 2, 4, 8, 16)]:
        if depth < 8 and colour in (2, 4, 6) or (depth, colour) == (16, 3):
            continue
        for interlaced in (0, 1):
            yield f"png_c{colour}_d{depth}{'_adam7' if interlaced else ''}", png(13, 11, depth, colour, interlaced)
    for width, height in [(1, 1), (1, 9), (9, 1), (2, 3), (5, 5), (8, 8)]:
        yield f"png_adam7_{width}x{height}", png(width, height, 8, 2, 1)
        yield f"png_adam7_bits_{width}x{height}", png(width, height, 1, 0, 1)
    for f in range(5):
        yield f"png_filter{f}", png(9, 5, 8, 2, filters=(f,))
        yield f"png_filter{f}_bits", png(37, 5, 2, 0, filters=(f,))
    yield "png_trns_grey", png(7, 3, 8, 0, extra=chunk(b"tRNS", b"\0\7"))
    yield "png_trns_grey16", png(7, 3, 16, 0, extra=chunk(b"tRNS", b"\1\7"))
    yield "png_trns_rgb", png(7, 3, 8, 2, extra=chunk(b"tRNS", b"\0\1\0\2\0\3"))
    yield "png_trns_palette", png(7, 3, 4, 3, extra=palette(16) + chunk(b"tRNS", bytes(range(0, 160, 10))))
    yield "png_short_palette", png(7, 3, 8, 3, extra=palette(20))
    yield "png_no_palette", png(7, 3, 8, 3, extra=chunk(b"PLTE", b""))
    yield "png_odd_palette", png(7, 3, 8, 3, extra=chunk(b"PLTE", bytes(61)))
    yield "png_long_palette", png(7, 3, 8, 3, extra=chunk(b"PLTE", bytes(771)))
    yield "png_gamma", png(7, 3, 8, 2, extra=chunk(b"gAMA", struct.pack(">I", 100000)) + chunk(b"prVt", b"anything"))
    values = struct.pack(">8H", 0, 1, 254, 255, 256, 511, 32768, 65535)
    yield "png_16bit_values", png(8, 1, 16, 0, data=deflate(b"\0" + values))


def png_streams():
    yield "png_parts", png(13, 11, 8, 6, parts=40)
    yield "png_empty_idat", join(ihdr(3, 1, 8, 0), chunk(b"IDAT", b""), chunk(b"IDAT", deflate(b"\0\1\2\3")))
    yield "png_stored", png(13, 11, 8, 6, level=0)
    yield "png_stored_parts", png(13, 11, 8, 6, level=0, parts=30)
    # 90 KB of rows: the window slides; and matches that reach back nearly 32 KB, over noise of one bit per byte.
    yield "png_slide", png(300, 300, 8, 0, data=deflate(bytes(i % 301 and i // 50 & 63 for i in range(301 * 300))))
    noise = bytes(rng.randrange(2) if i % 301 else 0 for i in range(301 * 108))
    yield "png_far", png(300, 216, 8, 0, data=deflate(noise * 2))
    yield "png_fixed", png(30, 20, 8, 0, data=deflate(rows(30, 20, 8, 0), 9, zlib.Z_FIXED))
    yield "png_huffman_only", png(30, 20, 8, 0, data=deflate(rows(30, 20, 8, 0), 9, zlib.Z_HUFFMAN_ONLY))
    yield "png_one_distance", png(300, 9, 8, 0, data=deflate(bytes(301 * 9)))
    yield "png_small_window", png(60, 60, 8, 0, data=deflate(rows(60, 60, 8, 0), 9, bits=9))
    z = deflate(b"\0\1\2\3")
    yield "png_early_end", png(3, 4, 8, 0, data=z)
    yield "png_early_end_palette", png(3, 4, 8, 3, 1, data=deflate(b"\0\1"))
    yield "png_early_end_in_row", png(3, 4, 8, 0, data=deflate(b"\0\1\2\3\0"))
    yield "png_too_much", png(3, 1, 8, 0, data=deflate(b"\0\1\2\3\4\5\6"))
    yield "png_no_adler", png(3, 1, 8, 0, data=z[:-4])
    yield "png_bad_adler", png(3, 1, 8, 0, data=z[:-1] + bytes([z[-1] ^ 1]))
    yield "png_bad_idat_crc", join(ihdr(3, 1, 8, 0), chunk(b"IDAT", z, crc=1))
    yield "png_bad_header_crc", join(chunk(b"IHDR", ihdr(3, 1, 8, 0)[8:21], crc=1), chunk(b"IDAT", z))
    yield "png_bad_ancillary_crc", png(3, 1, 8, 0, data=z, extra=chunk(b"tEXt", b"a\0b", crc=1))
    yield "png_bad_filter", png(3, 1, 8, 0, data=deflate(b"\5\1\2\3"))
    yield "png_bad_zlib", png(3, 1, 8, 0, data=b"\x79" + z[1:])
    yield "png_bad_block", png(3, 1, 8, 0, data=z[:2] + b"\7" + z[3:])
    yield "png_bad_depth", join(ihdr(3, 1, 3, 0), chunk(b"IDAT", z))
    yield "png_bad_colour", join(ihdr(3, 1, 8, 5), chunk(b"IDAT", z))
    yield "png_bad_method", join(ihdr(3, 1, 8, 0, filter_method=1), chunk(b"IDAT", z))
    yield "png_0x1", join(ihdr(0, 1, 8, 0), chunk(b"IDAT", z))
    yield "png_1x0", join(ihdr(1, 0, 8, 0), chunk(b"IDAT", z))
    yield "png_huge", join(ihdr(2**31 - 1, 2**31 - 1, 16, 6), chunk(b"IDAT", z))
    yield "png_no_header", join(chunk(b"IDAT", z))
    yield "png_no_pixels", join(ihdr(3, 1, 8, 0))
    yield "png_no_end", join(ihdr(3, 1, 8, 0), chunk(b"IDAT", z))[:-12]
    yield "png_tail_breaks_off", join(ihdr(3, 1, 8, 0), chunk(b"IDAT", z), chunk(b"tEXt", b"a\0" + bytes(40)))[:-30]
    yield "png_truncated", png(13, 11, 8, 6)[:200]
    yield "png_wrong_signature", b"\x89PNG\n\x1a\n\0" + png(3, 1, 8, 0)[8:]


# ---- JPEG ----


def photo(width, height, mode="RGB"):
    """Waves, an edge and noise: every coefficient is used."""
    n = {"L": 1, "RGB": 3, "CMYK": 4}[mode]
    noise = random.Random(width * 1000 + height)
    data = bytearray()
    for y in range(height):
        for x in range(width):
            for c in range(n):
                v = 128 + 70 * math.sin(x / (3 + c)) * math.cos(y / (5 - c)) + (60 if x + 2 * y > width else -20)
                data.append(max(0, min(255, int(v) + noise.randrange(-12, 13))))
    return Image.frombytes(mode, (width, height), bytes(data))


def jpeg(width=19, height=21, mode="RGB", **kw):
    out = io.BytesIO()
    kw.setdefault("quality", 75)
    photo(width, height, mode).save(out, "JPEG", **kw)
    return bytearray(out.getvalue())


def resample(b, *factors):
    """The same file with other sampling factors in its frame header: a legal file of another picture."""
    at = b.index(b"\xff\xc0") + 10
    for i, (h, v) in enumerate(factors):
        b[at + 1 + 3 * i] = h << 4 | v
    return b


def split_scans(b):
    """A baseline file of three components, 4:4:4, as three scans, each the data of the first (a picture of its own)."""
    at = b.index(b"\xff\xda")
    data = b[at + 14 : -2]
    header = b"\xff\xda\0\x08\1%c%c\0\x3f\0"
    scans = b"".join(header % (i, 0 if i == 1 else 0x11) + data for i in (1, 2, 3))
    return b[:at] + scans + b"\xff\xd9"


def jpeg_pictures():
    for width, height in [(1, 1), (2, 3), (3, 2), (5, 17), (8, 8), (16, 16), (17, 9), (33, 31)]:
        for sampling in ("4:4:4", "4:2:2", "4:2:0"):
            yield f"jpeg_{width}x{height}_{sampling.replace(':', '')}", jpeg(width, height, subsampling=sampling)
    for width, height in [(1, 1), (7, 9), (20, 5)]:
        yield f"jpeg_grey_{width}x{height}", jpeg(width, height, "L")
    for q in (1, 10, 50, 90, 100):
        yield f"jpeg_q{q}", jpeg(quality=q, subsampling="4:2:0")
    one = (1, 1)
    for name, factors in [("440", [(1, 2), one, one]), ("411", [(4, 1), one, one]), ("410", [(4, 2), one, one]),
                          ("441", [(1, 4), one, one]), ("31", [(3, 1), one, one]), ("13", [(1, 3), one, one]),
                          ("mixed", [(2, 2), (2, 1), (1, 2)]), ("chroma_first", [one, (2, 2), (2, 2)]),
                          ("22_12", [(2, 2), (1, 2), (1, 2)]), ("fraction", [(3, 1), (2, 1), one]),
                          ("all_22", [(2, 2), (1, 1), (2, 2)]), ("zero", [(0, 1), one, one]),
                          ("big", [(4, 4), one, one])]:
        for width, height in [(4, 5), (35, 18)]:
            yield f"jpeg_{name}_{width}x{height}", resample(jpeg(width, height, subsampling="4:4:4"), *factors)
    yield "jpeg_grey_22", resample(jpeg(19, 21, "L"), (2, 2))
    yield "jpeg_rgb", jpeg(keep_rgb=True)
    yield "jpeg_cmyk", jpeg(mode="CMYK")
    cmyk = jpeg(mode="CMYK")
    at = cmyk.index(b"Adobe")
    yield "jpeg_ycck", cmyk[: at + 11] + b"\2" + cmyk[at + 12 :]
    yield "jpeg_cmyk_no_adobe", cmyk[: at] + b"Other" + cmyk[at + 5 :]
    plain = jpeg()
    yield "jpeg_no_jfif", plain.replace(b"JFIF", b"JUNK")
    yield "jpeg_names_rgb", rename(plain.replace(b"JFIF", b"JUNK"), b"RGB")
    yield "jpeg_names_odd", rename(plain.replace(b"JFIF", b"JUNK"), b"XYZ")
    yield "jpeg_sof1", plain.replace(b"\xff\xc0", b"\xff\xc1")
    yield "jpeg_16bit_tables", wide_tables(plain)
    yield "jpeg_three_scans", split_scans(jpeg(subsampling="4:4:4"))
    yield "jpeg_missing_scan", split_scans(jpeg(subsampling="4:4:4"))[:-200] + b"\xff\xd9"
    for n in (1, 2, 3):
        yield f"jpeg_restart{n}", jpeg(40, 33, restart_marker_blocks=n)
    for sampling in ("4:4:4", "4:2:0"):
        yield f"jpeg_progressive_{sampling.replace(':', '')}", jpeg(35, 21, progressive=True, subsampling=sampling)
    yield "jpeg_progressive_grey", jpeg(35, 21, "L", progressive=True)
    yield "jpeg_progressive_restart", jpeg(40, 33, progressive=True, restart_marker_blocks=2)
    yield "jpeg_progressive_q100", jpeg(20, 20, progressive=True, quality=100)


def exif(order, orientation, tag_type=3, directory=8, first=b"Exif\0\0"):
    """An Exif segment of two entries, the second of them the orientation."""
    value = struct.pack(order + "HH", orientation, 0) if tag_type == 3 else struct.pack(order + "I", orientation)
    tiff = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, directory) + bytes(directory - 8)
    tiff += struct.pack(order + "HHHI4s", 2, 0x010E, 2, 2, b"a\0")
    tiff += struct.pack(order + "HHI", 0x0112, tag_type, 1) + value
    return first + tiff + bytes(4)


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description %s</rdf:Description></x:xmpmeta>'
XMP_ATTRIBUTE = XMP % b'tiff:Orientation="%d">'
XMP_ELEMENT = XMP % b"><tiff:Orientation>%d</tiff:Orientation>"
XMP_NOTHING = XMP % b"tiff:Orientation='6'> tiff:Orientation= 6 tiff:Orientation>"


def tiff(order, tag_type, n, value, tail=b"", magic=b""):
    """Exif data of one entry, the orientation, of any type."""
    head = magic or (b"II*\0" if order == "<" else b"MM\0*")
    return b"Exif\0\0" + head + struct.pack(order + "IHHHI4s", 8, 1, 0x0112, tag_type, n, value) + tail


def strange_exif():
    yield "signed_byte", tiff("<", 6, 1, b"\6\0\0\0")
    yield "signed_short", tiff(">", 8, 1, b"\0\6\0\0")
    yield "signed_long", tiff(">", 9, 1, b"\0\0\0\6")
    yield "negative", tiff(">", 9, 1, b"\xff\xff\xff\xfa")
    yield "ifd", tiff("<", 13, 1, b"\6\0\0\0")
    yield "text", tiff("<", 2, 1, b"6\0\0\0")
    yield "no_type", tiff("<", 14, 1, b"\6\0\0\0")
    yield "two_shorts", tiff("<", 3, 2, b"\6\0\3\0")
    yield "none", tiff("<", 3, 0, b"\6\0\0\0")
    yield "three_shorts", tiff("<", 3, 3, struct.pack("<I", 22), bytes([8, 0, 3, 0, 6, 0]))
    yield "three_shorts_cut", tiff("<", 3, 3, struct.pack("<I", 22), bytes([8, 0, 3, 0, 6]))
    yield "long8", tiff(">", 16, 1, struct.pack(">I", 22), bytes([0, 0, 0, 0, 0, 0, 0, 7]))
    yield "magic", tiff(">", 3, 1, b"\0\6\0\0", magic=b"MM*\0")
    yield "magic_little", tiff("<", 3, 1, b"\6\0\0\0", magic=b"II\0*")
    yield "twice_headed", b"Exif\0\0" + tiff("<", 3, 1, b"\6\0\0\0")


def xmp_segment(data):
    data = b"http://ns.adobe.com/xap/1.0/\0" + data
    return b"\xff\xe1" + struct.pack(">H", len(data) + 2) + data


def xmp_chunk(data):
    return chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0en\0XMP\0" + data)


def strip_tables(b, which=range(256)):
    """The same file without the Huffman tables of these numbers (16 for AC), or with none at all."""
    at = 0
    while (at := b.find(b"\xff\xc4", at)) >= 0:
        end = at + 2 + int.from_bytes(b[at + 2 : at + 4], "big")
        if b[at + 4] in which:
            b = b[:at] + b[end:]
        else:
            at = end
    return b


def jpeg_tables():
    yield "jpeg_no_tables", strip_tables(jpeg(40, 33, subsampling="4:2:0"))
    yield "jpeg_no_tables_q100", strip_tables(jpeg(40, 33, quality=100))
    yield "jpeg_no_tables_grey", strip_tables(jpeg(20, 20, "L", quality=98))
    yield "jpeg_no_tables_cmyk", strip_tables(jpeg(mode="CMYK"))
    for which in (0, 1, 16, 17):
        yield f"jpeg_no_table{which}", strip_tables(jpeg(20, 20), (which,))
        yield f"jpeg_own_tables_but{which}", strip_tables(jpeg(20, 20, optimize=True), (which,))
    yield "jpeg_no_tables_progressive", strip_tables(jpeg(20, 20, progressive=True))
    yield "jpeg_no_tables_three_scans", strip_tables(split_scans(jpeg(subsampling="4:4:4")))
    b, six = jpeg(20, 20), xmp_segment(XMP_ELEMENT % 6)
    markers = {"huffman": b"\xff\xc4", "quantisation": b"\xff\xdb", "frame": b"\xff\xc0", "scan": b"\xff\xda"}
    for name, marker in markers.items():
        at = b.index(marker)
        for length in (0, 1, 2):
            yield f"jpeg_{name}_length{length}", b[: at + 2] + bytes([0, length]) + b[at + 4 :]
    for name, data in [("no_tiff", b"Exif\0\0JUNK" + bytes(30)), ("short", b"Exif\0\0II*\0"), ("no", b"Exif\0\0"),
                       ("odd", tiff(">", 3, 1, b"\0\3\0\0", magic=b"MM\0+"))]:
        turned = jpeg(9, 6, exif=data)
        yield f"jpeg_{name}_exif_and_xmp", turned[:2] + six + turned[2:]


def jpeg_xmp():
    b, other = jpeg(9, 6), exif("<", 3)[:-16].replace(b"\x12\x01", b"\x11\x01") + bytes(16)
    for i in (0, 1, 5, 6, 9):
        yield f"jpeg_xmp{i}", b[:2] + xmp_segment(XMP_ATTRIBUTE % i) + b[2:]
        yield f"jpeg_xmp{i}_element", b[:2] + xmp_segment(XMP_ELEMENT % i) + b[2:]
    six = xmp_segment(XMP_ELEMENT % 6)
    yield "jpeg_xmp_nothing", b[:2] + xmp_segment(XMP_NOTHING) + b[2:]
    yield "jpeg_xmp_two", b[:2] + six + xmp_segment(XMP_ATTRIBUTE % 8) + b[2:]
    yield "jpeg_xmp_lost", b[:2] + six + xmp_segment(XMP_NOTHING) + b[2:]
    yield "jpeg_xmp_cut", b[:2] + xmp_segment((XMP_ELEMENT % 6)[: (XMP_ELEMENT % 6).index(b"6</")]) + b[2:]
    for i in (0, 1, 3, 9):
        turned = jpeg(9, 6, exif=exif(">", i))
        yield f"jpeg_exif{i}_and_xmp", turned[:2] + six + turned[2:]
    turned = jpeg(9, 6, exif=tiff("<", 3, 0, b"\6\0\0\0"))
    yield "jpeg_exif_nothing_and_xmp", turned[:2] + six + turned[2:]
    for name, data in strange_exif():
        yield f"jpeg_turned_{name}", jpeg(9, 6, exif=data)


def png_turned():
    z = deflate(rows(9, 6, 8, 2))
    for i in range(10):
        order = "<>"[i % 2]
        turn = chunk(b"eXIf", exif(order, i)[6:])
        yield f"png_turned{i}", png(9, 6, 8, 2, extra=turn)
        yield f"png_turned{i}_adam7", png(9, 6, 8, 2, 1, extra=turn)
        yield f"png_turned{i}_bits", png(9, 6, 1, 0, 1, extra=turn)
        yield f"png_turned{i}_late", join(ihdr(9, 6, 8, 2), chunk(b"IDAT", z), turn)
        yield f"png_xmp{i}", png(9, 6, 8, 2, extra=xmp_chunk(XMP_ATTRIBUTE % i))
    six, eight = chunk(b"eXIf", exif("<", 6)[6:]), chunk(b"eXIf", exif("<", 8))
    yield "png_turned_grey16", png(9, 6, 16, 0, extra=six)
    yield "png_turned_palette", png(9, 6, 4, 3, extra=six)
    yield "png_turned_rgba16", png(9, 6, 16, 6, 1, extra=eight)
    yield "png_turned_twice", join(ihdr(9, 6, 8, 2), six, eight, chunk(b"IDAT", z))
    yield "png_turned_before_and_after", join(ihdr(9, 6, 8, 2), six, chunk(b"IDAT", z), eight)
    yield "png_turned_after_end", join(ihdr(9, 6, 8, 2), chunk(b"IDAT", z)) + eight
    yield "png_turned_early_end", png(9, 6, 8, 2, data=deflate(rows(9, 2, 8, 2)), extra=six)
    yield "png_turned_empty", png(9, 6, 8, 2, extra=chunk(b"eXIf", b""))
    for name, data in strange_exif():
        yield f"png_turned_{name}", png(9, 6, 8, 2, extra=chunk(b"eXIf", data[6:]))
    yield "png_xmp_element", png(9, 6, 8, 2, extra=xmp_chunk(XMP_ELEMENT % 6))
    yield "png_xmp_nothing", png(9, 6, 8, 2, extra=xmp_chunk(XMP_NOTHING))
    yield "png_xmp_late", join(ihdr(9, 6, 8, 2), chunk(b"IDAT", z), xmp_chunk(XMP_ELEMENT % 5))
    yield "png_xmp_other_key", png(9, 6, 8, 2, extra=chunk(b"iTXt", b"XMP\0\0\0\0\0" + XMP_ELEMENT % 6))
    yield "png_xmp_cut", png(9, 6, 8, 2, extra=chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0en"))
    yield "png_exif_and_xmp", png(9, 6, 8, 2, extra=six + xmp_chunk(XMP_ELEMENT % 5))
    yield "png_exif0_and_xmp", png(9, 6, 8, 2, extra=chunk(b"eXIf", exif("<", 0)) + xmp_chunk(XMP_ELEMENT % 5))


def jpeg_turned():
    for orientation in range(10):
        for order in "<>":
            name = f"jpeg_turned{orientation}_{'little' if order == '<' else 'big'}"
            yield name, jpeg(9, 6, quality=90, exif=exif(order, orientation))
    yield "jpeg_turned_long", jpeg(9, 6, exif=exif("<", 6, 4))
    yield "jpeg_turned_byte", jpeg(9, 6, exif=exif("<", 6, 1))
    yield "jpeg_turned_far", jpeg(9, 6, exif=exif(">", 8, directory=200))
    yield "jpeg_turned_outside", jpeg(9, 6, exif=exif(">", 8)[:14] + bytes([0, 0, 9, 9]))
    yield "jpeg_turned_short", jpeg(9, 6, exif=exif(">", 8)[:-8])
    yield "jpeg_turned_no_tiff", jpeg(9, 6, exif=b"Exif\0\0JUNK" + bytes(30))
    b = jpeg(9, 6)
    scan, segment = b.index(b"\xff\xda"), exif(">", 5)
    yield "jpeg_turned_late", b[:scan] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + b[scan:]
    yield "jpeg_turned_progressive", jpeg(20, 9, progressive=True, exif=exif("<", 7))
    yield "jpeg_turned_grey", jpeg(20, 9, "L", exif=exif("<", 3))


def rename(b, names):
    sof, sos = b.index(b"\xff\xc0"), b.index(b"\xff\xda")
    for i, name in enumerate(names):
        b[sof + 10 + 3 * i] = b[sos + 5 + 2 * i] = name
    return b


def wide_tables(b):
    """Every quantisation table with 16 bits per value, one of them above 255."""
    while (at := b.find(b"\xff\xdb\0\x43")) >= 0:
        values = list(b[at + 5 : at + 69])
        values[5] += 300
        b = b[:at] + b"\xff\xdb\0\x83" + bytes([16 | b[at + 4]]) + struct.pack(">64H", *values) + b[at + 69 :]
    return b


def jpeg_damage():
    b = jpeg(40, 33, restart_marker_blocks=2, subsampling="4:2:0")
    scan, sof = b.index(b"\xff\xda"), b.index(b"\xff\xc0")
    first, second = b.index(b"\xff\xd0", scan), b.index(b"\xff\xd1", scan)
    yield "jpeg_lost_restart", b[:first] + b[second:]
    yield "jpeg_wrong_restart", b[: first + 1] + b"\xd5" + b[first + 2 :]
    yield "jpeg_early_restart", b[: second + 1] + b"\xd7" + b[second + 2 :]
    yield "jpeg_bytes_before_restart", b[:first] + bytes(50) + b[first:]
    yield "jpeg_early_end", b[: first + 10] + b"\xff\xd9"
    yield "jpeg_damaged", b[: scan + 30] + b"\x55\xaa\xf0" + b[scan + 33 :]
    yield "jpeg_damaged_no_restart", (lambda x: x[:-200] + b"\x12\x34\xfa" + x[-197:])(jpeg(40, 33))
    yield "jpeg_fill_bytes", b[:scan] + b"\xff\xff\xff" + b[scan:]
    yield "jpeg_junk_between", b[:scan] + b"junk" + b[scan:]
    yield "jpeg_bytes_after", b + b"\0\1\2\3 more"
    yield "jpeg_picture_after", b + b
    yield "jpeg_comment", b[:2] + b"\xff\xfe\0\7hello" + b[2:]
    yield "jpeg_no_end", b[:-2]
    yield "jpeg_truncated", b[: second + 5]
    yield "jpeg_truncated_header", b[:100]
    yield "jpeg_truncated_progressive", jpeg(35, 21, progressive=True)[:-60]
    yield "jpeg_no_table", b[: sof + 12] + b"\3" + b[sof + 13 :]
    yield "jpeg_no_huffman", b[: scan + 6] + b"\x33" + b[scan + 7 :]
    yield "jpeg_two_frames", b[:sof] + b[sof : sof + 19] + b[sof:]
    yield "jpeg_no_frame", b[:sof] + b[sof + 19 :]
    yield "jpeg_12bit", b[: sof + 4] + b"\x0c" + b[sof + 5 :]
    yield "jpeg_0x33", b[: sof + 7] + b"\0\0" + b[sof + 9 :]
    yield "jpeg_40x0", b[: sof + 5] + b"\0\0" + b[sof + 7 :]
    yield "jpeg_lossless", b.replace(b"\xff\xc0", b"\xff\xc3")
    yield "jpeg_hierarchical", b.replace(b"\xff\xc0", b"\xff\xc5")
    yield "jpeg_unknown_marker", b[:scan] + b"\xff\xf3\0\4ab" + b[scan:]
    yield "jpeg_wrong_signature", b"\xff\xd9" + b[2:]


# ---- BMP ----


def grays(n):
    """Entries of a palette that Pillow takes for a gray picture."""
    return b"".join(bytes([i & 255] * 3 + [0]) for i in ((0, 255) if n == 2 else range(n)))


def bmp(bits, width=13, height=11, size=40, compression=0, colours=b"", n_colours=None, masks=b"", data=None, gap=b"",
        offset=None, tail=b""):
    """A file with a header of this size. colours: the palette; masks: what follows the first 40 bytes of the header."""
    if size == 12:
        header = struct.pack("<IHHHH", size, width, height, 1, bits)
    else:
        n_colours = len(colours) // 4 if n_colours is None else n_colours
        header = struct.pack("<IiiHHIIiiII", size, width, height, 1, bits, compression, 0, 2835, 2835, n_colours, 0)
        header += masks + bytes(max(0, size - 40 - len(masks)))
    if data is None:
        data = bytes(rng.randrange(256) for _ in range((width * bits + 31) // 32 * 4 * abs(height)))
    offset = 14 + len(header) + len(colours) + len(gap) if offset is None else offset
    return struct.pack("<2sIII", b"BM", 0, 0, offset) + header + colours + gap + data + tail


def noise(n):
    return bytes(rng.randrange(256) for _ in range(n))


def bmp_pictures():
    for bits in (1, 4, 8):
        n = 1 << bits
        yield f"bmp_{bits}", bmp(bits, colours=noise(4 * n))
        yield f"bmp_{bits}_down", bmp(bits, height=-11, colours=noise(4 * n))
        yield f"bmp_{bits}_core", bmp(bits, size=12, colours=noise(3 * n))
        yield f"bmp_{bits}_v5", bmp(bits, size=124, colours=noise(4 * n))
        yield f"bmp_{bits}_few", bmp(bits, colours=noise(4 * (n // 2 + 1)))
        yield f"bmp_{bits}_no_count", bmp(bits, colours=noise(4 * n), n_colours=0)
        yield f"bmp_{bits}_no_palette", bmp(bits, n_colours=n)
        yield f"bmp_{bits}_gray", bmp(bits, width=4, colours=grays(n))
        three = b"".join(grays(n)[4 * i : 4 * i + 3] for i in range(n))
        yield f"bmp_{bits}_gray_core", bmp(bits, width=4, size=12, colours=three)
        yield f"bmp_{bits}_black_white", bmp(bits, colours=grays(2))
        yield f"bmp_{bits}_white_black", bmp(bits, colours=grays(2)[::-1])
        for width in (1, 7, 8, 9, 32, 33):
            yield f"bmp_{bits}_{width}x2", bmp(bits, width, 2, colours=noise(4 * n))
    for bits in (16, 24, 32):
        yield f"bmp_{bits}", bmp(bits)
        yield f"bmp_{bits}_down", bmp(bits, height=-11)
        yield f"bmp_{bits}_core", bmp(bits, size=12)
        yield f"bmp_{bits}_palette", bmp(bits, colours=noise(40))
        yield f"bmp_{bits}_1x1", bmp(bits, 1, 1)
    yield "bmp_4_gray_wide", bmp(4, colours=grays(16))
    yield "bmp_8_gray_64", bmp(8, colours=grays(64))
    yield "bmp_8_gray_300", bmp(8, colours=grays(300))
    yield "bmp_8_one_gray", bmp(8, colours=grays(1))
    yield "bmp_8_nearly_gray", bmp(8, colours=grays(255) + b"\xff\xff\xfe\0")
    for size in (52, 56, 64, 108):
        yield f"bmp_8_header{size}", bmp(8, size=size, colours=noise(1024))
        yield f"bmp_32_header{size}", bmp(32, size=size)
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        out = io.BytesIO()
        photo(13, 11).convert(mode).save(out, "BMP")
        yield f"bmp_pillow_{mode.lower()}", out.getvalue()


def bmp_bitfields():
    layouts = {16: ["f800 7e0 1f 0", "7c00 3e0 1f 0", "7c00 3e0 1f 8000", "f00 f0 f 0"],
               24: ["ff0000 ff00 ff 0", "ff ff00 ff0000 0"],
               32: ["ff0000 ff00 ff 0", "ff0000 ff00 ff ff000000", "ff ff00 ff0000 ff000000", "ff ff00 ff0000 0",
                    "ff000000 ff0000 ff00 0", "ff000000 ff0000 ff00 ff", "ff000000 ff00 ff 0",
                    "ff000000 ff00 ff ff0000", "0 0 0 0", "0 0 0 ff", "3ff00000 ffc00 3ff 0"],
               8: ["ff0000 ff00 ff 0"]}
    for bits, lines in layouts.items():
        for i, line in enumerate(lines):
            masks = struct.pack("<4I", *(int(m, 16) for m in line.split()))
            for size in (40, 52, 124):
                masks_here = masks[:12] if size < 56 else masks
                yield f"bmp_{bits}_fields{i}_header{size}", bmp(bits, 4, 3, size, 3, masks=masks_here)
    yield "bmp_fields_cut", bmp(16, 4, 3, 40, 3, data=b"")[:60]


def bmp_runs():
    p = noise(1024)
    one_row = bytes([5, 7, 0, 0])
    streams = {  # of a picture 5 x 3
        "plain": one_row * 3 + b"\0\1",
        "no_row_ends": bytes([5, 1, 5, 2, 5, 3]),
        "two_rows_at_once": bytes([10, 1, 0, 0, 5, 2, 0, 0, 5, 3]),
        "short_rows": bytes([2, 0x12, 0, 0, 3, 0x34, 0, 0, 1, 0x56, 0, 0]),
        "empty_row": bytes([5, 1, 0, 0, 0, 0, 5, 1, 0, 0, 5, 2, 0, 1]),
        "absolute4": bytes([0, 4, 0x12, 0x34, 0x56, 0x78, 1, 9, 0, 0]) * 3,
        "absolute5": bytes([0, 5, 0x12, 0x34, 0x56, 0x78, 0x9A, 0, 0, 0]) * 3,
        "absolute3": bytes([0, 3, 0x12, 0x34, 0x56, 0, 2, 0x78, 0, 0]) * 3,
        "absolute_long": bytes([0, 15, *range(16, 31), 0]),
        "absolute_cut": bytes([5, 1, 5, 2, 0, 9, 1, 2, 3]),
        "absolute_cut_enough": bytes([5, 1, 5, 2, 0, 9, 1, 2, 3, 4, 5]),
        "jump": bytes([1, 1, 0, 2, 2, 1, 5, 5]) + bytes([5, 2]) * 3,
        "jump_wide": bytes([1, 1, 0, 2, 0, 0, 200, 0]),
        "jump_far": bytes([0, 2, 1, 1, 255, 255]),
        "jump_cut": bytes([5, 1, 5, 2, 0, 2, 1]),
        "jump_cut_later": bytes([5, 1, 5, 2, 0, 2, 1, 1, 2]),
        "early_end": bytes([5, 1, 0, 0, 2, 2, 0, 1]) + one_row * 3,
        "cut": bytes([5, 1, 5, 2, 5]),
        "nothing": b"",
        "more": one_row * 5,
    }
    for name, data in streams.items():
        yield f"bmp_rle8_{name}", bmp(8, 5, 3, compression=1, colours=p, data=data)
        yield f"bmp_rle8_odd_{name}", bmp(8, 5, 3, compression=1, colours=p, data=data, gap=b"\0")
        yield f"bmp_rle4_{name}", bmp(4, 5, 3, compression=2, colours=p[:64], data=data)
    plain = streams["plain"]
    yield "bmp_rle8_down", bmp(8, 5, -3, compression=1, colours=p, data=bytes([5, 1, 5, 2, 5, 3]))
    yield "bmp_rle8_gray", bmp(8, 5, 3, compression=1, colours=grays(256), data=plain)
    yield "bmp_rle4_gray", bmp(4, 5, 3, compression=2, colours=grays(16), data=plain)
    yield "bmp_rle8_black_white", bmp(8, 5, 3, compression=1, colours=grays(2), data=plain)
    yield "bmp_rle8_bits4", bmp(4, 5, 3, compression=1, colours=p[:64], data=plain)
    yield "bmp_rle4_bits8", bmp(8, 5, 3, compression=2, colours=p, data=plain)
    yield "bmp_rle8_bits1", bmp(1, 5, 3, compression=1, colours=p[:8], data=plain)
    yield "bmp_rle8_bits24", bmp(24, 5, 3, compression=1, data=plain)
    yield "bmp_rle8_palette300", bmp(8, 5, 3, compression=1, colours=noise(1200), data=plain)


def bmp_damage():
    p = noise(1024)
    yield "bmp_gap", bmp(8, colours=p, gap=b"gap")
    yield "bmp_offset0", bmp(8, colours=p, offset=0)
    yield "bmp_offset0_24", bmp(24, offset=0)
    yield "bmp_offset0_fields", bmp(16, 4, 3, 40, 3, masks=struct.pack("<3I", 0xF800, 0x7E0, 0x1F), offset=0)
    yield "bmp_offset_in_header", bmp(24, offset=20)
    yield "bmp_offset_far", bmp(24, offset=2**32 - 1)
    yield "bmp_header_says_no_palette", bmp(8, colours=p, offset=54)
    yield "bmp_core_says_no_palette", bmp(1, size=12, colours=p[:6], offset=26, tail=b"abc")
    yield "bmp_bytes_after", bmp(8, colours=p, tail=b"more")
    yield "bmp_no_last_padding", bmp(24, 13, 11)[:-1]
    yield "bmp_cut_24", bmp(24, 13, 11)[:-2]
    yield "bmp_cut_palette", bmp(8, 5, 3, colours=p, offset=100)[:200]
    yield "bmp_cut_gray", bmp(8, 5, 3, colours=grays(256), offset=100)[: 54 + 1023]
    yield "bmp_cut_gray_more", bmp(8, 5, 3, colours=grays(256), offset=100)[: 54 + 1022]
    for n in (2, 14, 17, 18, 40, 53, 54):
        yield f"bmp_cut{n}", bmp(24)[:n]
    for n in (257, 300, 65536, 65537, 2**32 - 1):
        yield f"bmp_palette{n}", bmp(8, 5, 3, colours=p, n_colours=n)
    yield "bmp_palette257_here", bmp(8, 5, 3, colours=noise(4 * 257))
    for bits in (0, 2, 3, 15, 64):
        yield f"bmp_bits{bits}", bmp(bits, colours=noise(64))
    for size in (0, 4, 16, 36, 44, 60, 128):
        yield f"bmp_header{size}", bmp(24, size=size)
    for n in (4, 5, 6, 11):
        yield f"bmp_compression{n}", bmp(24, compression=n)
    huge, deepest = 2**31 - 1, -(2**24)
    for width, height in [(0, 3), (3, 0), (-3, 3), (huge, huge), (1, deepest + 1), (1, deepest), (1, deepest - 1)]:
        yield f"bmp_{width}x{height}", bmp(24, width, height, data=bytes(48))
    yield "bmp_wrong_signature", b"BN" + bmp(24)[2:]


# ---- the table ----


def reference(data):
    try:
        image = Image.open(io.BytesIO(data))
        rgb = ImageOps.exif_transpose(image).convert("RGB")
    except Exception:
        return "error"
    return f"{rgb.width}\t{rgb.height}\t{hashlib.sha256(rgb.tobytes()).hexdigest()}"


def main():
    assert PIL.__version__ == "12.1.1", "the golden results are those of Pillow 12.1.1"
    folder = GOLDEN / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    sources = [png_pictures, png_streams, jpeg_pictures, jpeg_turned, jpeg_damage]  # noise depends on the order
    sources += [bmp_pictures, bmp_bitfields, bmp_runs, bmp_damage, png_turned, jpeg_xmp, jpeg_tables]
    for source in sources:
        for name, data in source():
            name += {"png": ".png", "jpe": ".jpg", "bmp": ".bmp"}[name[:3]]
            (folder / name).write_bytes(data)
            lines.append(f"{name}\t{reference(bytes(data))}\n")
    (GOLDEN / "pictures.tsv").write_text("".join(lines))
    print(f"{len(lines)} pictures, {sum(line.endswith('error' + chr(10)) for line in lines)} of them errors")


if __name__ == "__main__":
    main()
