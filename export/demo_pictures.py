"""Draws the pictures and questions that the demonstration model learns from (see train_demo.py).

Every picture knows what is where in it ("things"), so that the vision encoder can be taught directly, place by place.
Fonts and handwritten digits are divided into a training and a test part; a test picture uses only the test part.
"""
import glob
import gzip
import io
import itertools
import math
import os
import random
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

TILE, LONGEST_EDGE = 64, 128                 # the processor's max_image_size and size
GRIDS = ((1, 2), (2, 2), (2, 1))             # rows x columns of tiles that a picture can be cut into
KINDS = ("circle", "square", "triangle", "star", "cross")
COLOURS = {"red": (215, 30, 35), "green": (35, 155, 55), "blue": (35, 75, 215), "yellow": (245, 215, 35),
           "orange": (245, 130, 25), "purple": (135, 45, 165), "black": (20, 20, 20)}
CLASSES = ["nothing", *"0123456789.", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ", *KINDS]       # what can be at a place
SHADES = ["nothing", *COLOURS]                                                     # and in which colour
TASKS = ("number", "word", "display", "handwriting", "how many", "colour", "shape", "yes/no")
TEST_FAMILIES = ("OpenSans", "Carlito", "FreeSerif", "Hack", "DSEG7ModernMini")
UNUSABLE_FONTS = ("Thin", "Hairline", "Math", "ExtraLight", "Symbol", "DSEG14", "DSEGWeather", "DSEG7SEGG")
MAX_LETTERS, MAX_DIGITS, MAX_SHAPES = 4, 4, 4
WORDS = """AM AN AS AT BE BY DO GO HE IF IN IS IT ME MY NO OF ON OR SO TO UP US WE ACT AGE AIR ALL AND ARM ART BAD BAG BED BIG BOX BOY
BUS BUY CAN CAR CAT COW CUP CUT DAY DOG DRY EAR EAT EGG END EYE FAR FEW FLY FOR FUN GAS HAT HOT ICE JOB KEY LEG MAP MIX NEW NOW OIL
OLD ONE OUT PEN RED RUN SEA SIX SKY SUN TEA TEN TOP TWO USE WAR WAY YES ZOO ARMY BABY BACK BALL BANK BIRD BLUE BOAT BOOK CAKE CITY
COLD DARK DESK DOOR EAST EXIT FARM FIRE FISH FOOD FROG GOLD HAND HELP HOME JAZZ JUMP KING LAKE LEFT LION LOVE MILK MOON NAME NINE OPEN
PARK PLAY QUIZ RAIN ROAD SALE SHIP SHOP SNOW STAR STOP TAXI TIME TREE VIEW WALK WEST WIND WOOD WORD ZERO APPLE BEACH BREAD CHAIR CLOCK
CLOUD DANCE EARTH EIGHT FRUIT GLASS GREEN HAPPY HORSE HOTEL HOUSE JUICE KNIFE LEMON LIGHT METRO MONEY MUSIC NIGHT NORTH OCEAN PAPER
PHONE PIANO PIZZA POWER QUEEN RADIO RIVER ROBOT SEVEN SOUTH SPEED STONE SUGAR TABLE TIGER TRAIN VIDEO VOICE WATER WHITE WORLD YOUTH
""".split()
QUESTIONS = {
    "number": ("What number is this?", "Read the number.", "Which number do you see?"),
    "word": ("What word is this?", "Read the word.", "Which word do you see?"),
    "display": ("What does the display show?", "Read the display.", "Read the meter."),
    "handwriting": ("Which digit is this?", "Read the handwritten digit.", "What digit is written here?"),
    "how many": ("How many {} are there?", "How many {} do you see?", "Count the {}."),
    "colour": ("What colour is the {}?", "Which colour is the {}?", "What is the colour of the {}?"),
    "shape": ("What shape is {}?", "Which shape is {}?", "What is the {} shape?"),
    "yes/no": ("Is there {}?", "Do you see {}?"),
}


def plural(kind):
    return kind + ("es" if kind.endswith("s") else "s")


# ---------------------------------------------------------------------------------------- fonts and handwritten digits
@lru_cache(None)
def font_files(split, segments):
    """All fonts of the wanted style; whole families are for tests only."""
    chosen = []
    for path in sorted(glob.glob("/usr/share/fonts/**/*.ttf", recursive=True), key=os.path.basename):
        name = os.path.basename(path)
        if segments != name.startswith("DSEG7") or any(word in name for word in UNUSABLE_FONTS):
            continue
        if name.startswith(TEST_FAMILIES) == (split == "test"):
            chosen.append(path)
    if not chosen:
        raise SystemExit("fonts missing: install (Debian) fonts-dejavu fonts-liberation fonts-dseg fonts-open-sans "
                         "fonts-freefont-ttf fonts-hack fonts-lato fonts-roboto-unhinted fonts-croscore "
                         "fonts-crosextra-carlito fonts-inconsolata fonts-ocr-a")
    return chosen


@lru_cache(4096)
def load_font(path, size):
    return ImageFont.truetype(path, size)


@lru_cache(None)
def handwritten_digits(split, mnist_folder):
    """Lists of square 8-bit pictures for each digit: scikit-learn's, and MNIST's test files where a folder has them."""
    from sklearn.datasets import load_digits
    data = load_digits()
    pictures = list((data.images * 255 / 16).astype(np.uint8))
    labels = list(data.target)
    images = os.path.join(mnist_folder or "", "mnist_t10k-images-idx3-ubyte.gz")
    if mnist_folder and os.path.exists(images):
        pictures += list(np.frombuffer(gzip.open(images).read()[16:], np.uint8).reshape(-1, 28, 28))
        labels += list(np.frombuffer(gzip.open(images.replace("images-idx3", "labels-idx1")).read()[8:], np.uint8))
    chosen = {digit: [] for digit in range(10)}
    for i, (picture, label) in enumerate(zip(pictures, labels)):
        if (i % 6 == 0) == (split == "test"):
            chosen[int(label)].append(picture)
    return chosen


# ------------------------------------------------------------------------------------------------------- surroundings
def picture_size(rng, grid, smallest, largest=400):
    """A random width and height that the processor cuts into the wanted grid."""
    long = round(math.exp(rng.uniform(math.log(smallest), math.log(max(largest, smallest + 1)))))
    ratio = rng.uniform(1.0, 1.85) if grid == (2, 2) else rng.uniform(2.02, 3.6)
    short = max(8, int(long / ratio))
    return (short, long) if grid == (2, 1) or (grid == (2, 2) and rng.random() < 0.25) else (long, short)


def brightness(colour):
    return 0.30 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2]


def two_colours(rng, contrast=80):
    while True:
        ink, paper = ([rng.randrange(256) for _ in range(3)] for _ in range(2))
        if rng.random() < 0.4:
            paper = [255 - rng.randrange(40)] * 3
        if abs(brightness(ink) - brightness(paper)) > contrast:
            return tuple(ink), tuple(paper)


def background(rng, size, colour, spread=30):
    """Plain, shaded, or blotchy paper."""
    style = rng.random()
    if style < 0.35:
        return Image.new("RGB", size, colour)
    cells = (2, 2) if style < 0.65 else (rng.randrange(3, 9), rng.randrange(3, 9))
    noise = np.random.default_rng(rng.getrandbits(32)).uniform(-spread, spread, (cells[1], cells[0], 3))
    if rng.random() < 0.5:
        noise[:] = noise[:, :, :1]
    patches = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
    return Image.fromarray(patches).resize(size, Image.BILINEAR)


def weather(rng, picture):
    """What a camera adds: blur, noise, JPEG."""
    if rng.random() < 0.2:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.6) * max(1, max(picture.size) / 128)))
    if rng.random() < 0.6:
        noise = np.random.default_rng(rng.getrandbits(32))
        pixels = np.asarray(picture, np.float32) + noise.normal(0, rng.uniform(2, 14), (*picture.size[::-1], 3))
        picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    if rng.random() < 0.15:
        data = io.BytesIO()
        picture.save(data, "JPEG", quality=rng.randrange(50, 95))
        picture = Image.open(data).convert("RGB")
    return picture


# ------------------------------------------------------------------------------------------------------ kinds of pictures
def string_mask(rng, size, text, font_path, fill=(0.7, 0.96), slope=7):
    """Text as a mask, slightly turned, and where each character is: (class, x, y, width, height)."""
    width, height = size
    angle = rng.uniform(-slope, slope)
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    left, top, right, bottom = load_font(font_path, 100).getbbox(text)
    w, h = right - left, bottom - top
    room = min(width / (w * cos + h * abs(sin)), height / (h * cos + w * abs(sin)))
    points = max(5, int(100 * room * rng.uniform(*fill)))
    font = load_font(font_path, points)
    left, top, right, bottom = font.getbbox(text)
    w, h = right - left, bottom - top
    half_w, half_h = (w * cos + h * abs(sin)) / 2, (h * cos + w * abs(sin)) / 2
    x, y = (rng.uniform(half, side - half) if side > 2 * half else side / 2
            for half, side in ((half_w, width), (half_h, height)))
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).text((x - w / 2 - left, y - h / 2 - top), text, fill=255, font=font)
    mask = mask.rotate(angle, Image.BICUBIC, center=(x, y))
    things = []
    for i, char in enumerate(text):
        start, end = font.getlength(text[:i]) - left, font.getlength(text[:i + 1]) - left
        if char == ".":
            start, end = end - 0.1 * h, end + 0.1 * h if end - start < 1 else end
        dx, dy = (start + end) / 2 - w / 2, 0.4 * h if char == "." else 0
        box = (end - start, 0.2 * h if char == "." else h)
        things.append((CLASSES.index(char), 0, x + cos * dx + sin * dy, y - sin * dx + cos * dy, *box))
    return mask, things


def vary_font(rng, mask, things):
    """Makes one font into many: slanted, narrower, bolder or lighter. Places move along with the ink."""
    left, top, right, bottom = mask.getbbox() or (0, 0, *mask.size)
    x, y, height = (left + right) / 2, (top + bottom) / 2, bottom - top
    narrow = rng.uniform(0.72, 1.0)
    room = min(left, mask.width - right) + (right - left) * (1 - narrow) / 2
    slant = rng.choice((-1, 1)) * min(rng.uniform(0, 0.35), 2 * room / max(height, 1))
    mask = mask.transform(mask.size, Image.AFFINE, (1 / narrow, -slant / narrow, x - (x - slant * y) / narrow, 0, 1, 0), Image.BICUBIC)
    if rng.random() < 0.5:
        weight = rng.uniform(-60, 60)
        soft = mask.filter(ImageFilter.GaussianBlur(max(0.4, height / 45)))
        mask = soft.point(lambda value: min(255, max(0, int((value - 128 + weight) * 2.5 + 128))))
    return mask, [(kind, shade, x + narrow * (tx - x) + slant * (ty - y), ty, w * narrow, h) for kind, shade, tx, ty, w, h in things]


SEGMENTS = {"0": "abcdef", "1": "bc", "2": "abged", "3": "abgcd", "4": "fgbc", "5": "afgcd", "6": "afgedc", "7": "abc",
            "8": "abcdefg", "9": "abcdfg"}


def segment_corners(name, width, thick, gap, pointed):
    """Corners of a segment (a on top, then clockwise, g in the middle) of a digit of height 1: a hexagon, or a plain bar."""
    half = thick / 2
    if name in "agd":
        y, start, end = {"a": half, "g": 0.5, "d": 1 - half}[name], half + gap, width - half - gap
        if pointed:
            return [(start, y), (start + half, y - half), (end - half, y - half), (end, y), (end - half, y + half),
                    (start + half, y + half)]
        return [(start - half, y - half), (end + half, y - half), (end + half, y + half), (start - half, y + half)]
    x = half if name in "fe" else width - half
    start, end = (half + gap, 0.5 - gap) if name in "fb" else (0.5 + gap, 1 - half - gap)
    if pointed:
        return [(x, start), (x + half, start + half), (x + half, end - half), (x, end), (x - half, end - half), (x - half, start + half)]
    return [(x - half, start), (x + half, start), (x + half, end), (x - half, end)]


def segment_shapes(rng, text):
    """A display of random make, in units of its height: [(class, x, y, width, height, polygons)] of the characters, and its width."""
    digit, thick, gap = rng.uniform(0.42, 0.68), rng.uniform(0.07, 0.19), rng.uniform(0.0, 0.035)
    space, dot, pointed = rng.uniform(0.12, 0.34), rng.uniform(0.09, 0.19), rng.random() < 0.6
    shapes, x = [], 0.0
    for char in text:
        if char == ".":
            corners = [(x + dot / 2 + dot / 2 * a, 1 - dot / 2 + dot / 2 * b) for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
            shapes.append((CLASSES.index(char), x + dot / 2, 1 - dot / 2, dot, dot, [corners]))
            x += dot + 0.6 * space
        else:
            polygons = [[(x + a, b) for a, b in segment_corners(name, digit, thick, gap, pointed)] for name in SEGMENTS[char]]
            shapes.append((CLASSES.index(char), x + digit / 2, 0.5, digit, 1.0, polygons))
            x += digit + space
    return shapes, x - space


def segment_mask(rng, size, text, fill, slope):
    """The same as string_mask, for a seven-segment display of random make in place of a font."""
    (width, height), sharp = size, 3                          # drawn three times as large, for smooth edges
    shapes, total = segment_shapes(rng, text)
    angle = rng.uniform(-slope, slope)
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    unit = min(width / (total * cos + abs(sin)), height / (cos + total * abs(sin))) * rng.uniform(*fill)
    half_w, half_h = (total * cos + abs(sin)) * unit / 2, (cos + total * abs(sin)) * unit / 2
    x, y = (rng.uniform(half, side - half) if side > 2 * half else side / 2 for half, side in ((half_w, width), (half_h, height)))
    mask, things = Image.new("L", (width * sharp, height * sharp)), []
    for kind, cx, cy, w, h, polygons in shapes:
        for corners in polygons:
            ImageDraw.Draw(mask).polygon([((x + (a - total / 2) * unit) * sharp, (y + (b - 0.5) * unit) * sharp) for a, b in corners],
                                         fill=255)
        dx, dy = (cx - total / 2) * unit, (cy - 0.5) * unit
        things.append((kind, 0, x + cos * dx + sin * dy, y - sin * dx + cos * dy, w * unit, h * unit))
    return mask.reduce(sharp).rotate(angle, Image.BICUBIC, center=(x, y)), things


def digits_text(rng, longest, dot_chance):
    text = "".join(rng.choices("0123456789", k=rng.randint(1, longest)))
    if len(text) > 1 and rng.random() < dot_chance:
        dot = rng.randrange(1, len(text))
        text = text[:dot] + "." + text[dot:]
    return text


def draw_string(rng, grid, split, task, hardness):
    if task == "number":
        text = digits_text(rng, 1 + round(hardness * (MAX_DIGITS - 1)), 0.4)
    else:
        longest = 2 + round(hardness * (MAX_LETTERS - 2))
        words = [word for word in WORDS if len(word) <= longest]
        letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
        text = rng.choice(words) if rng.random() < 0.4 else "".join(rng.choices(letters, k=rng.randint(2, longest)))
    ink, paper = two_colours(rng)
    size = picture_size(rng, grid, max(40, 16 * len(text)))
    mask, things = string_mask(rng, size, text, rng.choice(font_files(split, False)))
    if split == "train" and rng.random() < 0.7:
        mask, things = vary_font(rng, mask, things)
    picture = background(rng, size, paper)
    picture.paste(ink, (0, 0), mask)
    return picture, things, [(task, rng.choice(QUESTIONS[task]), text)]


def draw_display(rng, grid, split, hardness):
    """A seven-segment display: LCD (dark on grey-green, unlit segments faintly visible) or LED (glowing on dark)."""
    text = digits_text(rng, 2 + round(hardness * (MAX_DIGITS - 2)), 0.5)
    led = rng.random() < 0.5
    if led:
        hue = rng.choice(((255, 40, 30), (60, 255, 70), (80, 150, 255), (255, 180, 30), (240, 245, 255)))
        ink, paper = hue, tuple(rng.randrange(40) for _ in range(3))
    else:
        ink, grey = (rng.randrange(50),) * 3, rng.randrange(130, 220)
        paper = (grey - rng.randrange(25), grey, grey - rng.randrange(35))
    size = picture_size(rng, grid, max(40, 16 * len(text)))
    path = rng.choice(font_files(split, True))
    made_up = split == "train" and rng.random() < 0.6          # no font, but a display of random make
    state = rng.getstate()

    def show(characters):
        rng.setstate(state)
        return (segment_mask(rng, size, characters, (0.68, 0.94), 4) if made_up else
                string_mask(rng, size, characters, path, (0.68, 0.94), 4))

    mask, things = show(text)
    picture = background(rng, size, paper, 10)
    if rng.random() < 0.4:                                   # unlit segments: the same place, every digit an 8
        unlit, _ = show("".join("8" if c.isdigit() else c for c in text))
        strength = rng.uniform(0.04, 0.12)
        picture.paste(ink, (0, 0), unlit.point(lambda value: int(value * strength)))
    if led:
        glow = mask.filter(ImageFilter.GaussianBlur(max(size) / 64)).point(lambda value: value // 3)
        picture.paste(ink, (0, 0), glow)
    picture.paste(ink, (0, 0), mask)
    if rng.random() < 0.3:                                   # the rim of the case
        rim = max(1, min(size) // 40)
        ImageDraw.Draw(picture).rectangle((0, 0, size[0] - 1, size[1] - 1), outline=two_colours(rng)[0], width=rim)
    return picture, things, [("display", rng.choice(QUESTIONS["display"]), text)]


def draw_handwriting(rng, grid, split, mnist_folder):
    digit = rng.randrange(10)
    shapes = handwritten_digits(split, mnist_folder)[digit]
    small = [shape for shape in shapes if len(shape) == 8]
    shape = rng.choice(small if rng.random() < 0.4 else shapes)
    ink, paper = two_colours(rng)
    size = picture_size(rng, grid, 40, 300)
    side = min(max(12, int(min(size) * rng.uniform(0.6, 1.0))), min(size))
    mask = Image.fromarray(shape).resize((side, side), Image.BICUBIC).rotate(rng.uniform(-12, 12), Image.BICUBIC)
    x, y = rng.randint(0, size[0] - side), rng.randint(0, size[1] - side)
    picture = background(rng, size, paper)
    picture.paste(ink, (x, y), mask)
    things = [(CLASSES.index(str(digit)), 0, x + side / 2, y + side / 2, 0.6 * side, 0.7 * side)]
    return picture, things, [("handwriting", rng.choice(QUESTIONS["handwriting"]), str(digit))]


def outline(kind, x, y, r, turn):
    """Corners of a shape of radius r."""
    if kind == "square":
        radii = [1.1 * r] * 4
    elif kind == "triangle":
        radii = [1.2 * r] * 3
    elif kind == "star":
        radii = [1.2 * r, 0.48 * r] * 5
    else:                                                    # cross: 12 corners of a plus sign
        arm = 0.36
        corners = [(arm, 1), (arm, arm), (1, arm), (1, -arm), (arm, -arm), (arm, -1)]
        corners += [(-a, -b) for a, b in corners]
        cos, sin = math.cos(turn), math.sin(turn)
        return [(x + r * (a * cos - b * sin), y + r * (a * sin + b * cos)) for a, b in corners]
    start = turn - math.pi / 2 + (math.pi / 4 if kind == "square" else 0)
    step = 2 * math.pi / len(radii)
    return [(x + R * math.cos(start + i * step), y + R * math.sin(start + i * step)) for i, R in enumerate(radii)]


def place_shapes(rng, size, count):
    """Random places and radii that do not touch."""
    short, long = min(size), max(size)
    for shrink in itertools.count():                          # smaller ones where they do not fit
        spots = []
        for _ in range(40 * count):
            r = rng.uniform(0.075, 0.15) * long if count < 4 else rng.uniform(0.07, 0.115) * long
            r = min(r * 0.93 ** shrink, 0.40 * short)
            x, y = (rng.uniform(1.2 * r, side - 1.2 * r) for side in size)
            if all(math.hypot(x - a, y - b) > 1.25 * (r + s) for a, b, s in spots):
                spots.append((x, y, r))
            if len(spots) == count:
                return spots


def draw_shapes(rng, grid, first_task, hardness):
    count = rng.randint(1, 2 + round(hardness * (MAX_SHAPES - 2)))
    palette = rng.sample(sorted(COLOURS), rng.randint(1, 4))
    kinds = rng.sample(KINDS, rng.randint(1, 4))
    if rng.random() < 0.2:
        palette = [colour for colour in palette if colour not in ("black", "purple", "blue")] or ["yellow"]
        paper = tuple(rng.randrange(50) for _ in range(3))
    else:
        light = rng.randrange(190, 256)
        paper = tuple(min(255, max(0, light + rng.randrange(-12, 13))) for _ in range(3))
    size, scale = picture_size(rng, grid, 40, 320), 2
    picture = background(rng, size, paper, 14).resize((size[0] * scale, size[1] * scale))
    things, shapes, draw = [], [], ImageDraw.Draw(picture)
    for x, y, r in place_shapes(rng, size, count):
        kind, colour = rng.choice(kinds), rng.choice(palette)
        shade = tuple(min(255, max(0, value + rng.randrange(-18, 19))) for value in COLOURS[colour])
        X, Y, R = x * scale, y * scale, r * scale
        if kind == "circle":
            draw.ellipse((X - R, Y - R, X + R, Y + R), fill=shade)
        else:
            draw.polygon(outline(kind, X, Y, R, rng.uniform(-0.3, 0.3)), fill=shade)
        shapes.append((kind, colour))
        things.append((CLASSES.index(kind), SHADES.index(colour), x, y, 1.7 * r, 1.7 * r))
    questions = [ask(rng, first_task, shapes)] + [ask(rng, task, shapes) for task in rng.choices(TASKS[4:], (2, 1, 1, 4), k=2)]
    return picture.reduce(scale), things, questions


def ask(rng, task, shapes):
    """One question about shapes; colour and shape fall back to counting where nothing is unique."""
    kinds, colours = [kind for kind, _ in shapes], [colour for _, colour in shapes]
    if task == "colour":
        single = [shape for shape in shapes if kinds.count(shape[0]) == 1]
        if single:
            kind, colour = rng.choice(single)
            return task, rng.choice(QUESTIONS[task]).format(kind), colour
        task = "how many"
    if task == "shape":
        single = [shape for shape in shapes if colours.count(shape[1]) == 1]
        if single:
            kind, colour = rng.choice(single)
            return task, rng.choice(QUESTIONS[task]).format(colour), kind
        task = "how many"
    if task == "how many":
        kind, colour = rng.choice(shapes if rng.random() < 0.7 else [(rng.choice(KINDS), rng.choice(sorted(COLOURS)))])
        what, n = rng.choice((("shapes", len(shapes)), (plural(kind), kinds.count(kind)),
                              (colour + " shapes", colours.count(colour))))
        return task, rng.choice(QUESTIONS[task]).format(what), str(n)
    present = rng.random() < 0.5                              # yes/no; most "no" share the kind or the colour with a shape
    while True:
        kind, colour = rng.choice(shapes)
        if not present and rng.random() < 0.6:
            colour = rng.choice(sorted(COLOURS))
        if not present and rng.random() < 0.6:
            kind = rng.choice(KINDS)
        form = rng.randrange(3)
        what = (kind, colour + " shape", f"{colour} {kind}")[form]
        answer = (kind in kinds, colour in colours, (kind, colour) in shapes)[form]
        if answer == present or (not present and rng.random() < 0.05):
            article = "an" if what[0] in "aeiou" else "a"
            return task, rng.choice(QUESTIONS[task]).format(f"{article} {what}"), "yes" if answer else "no"


def draw(rng, task, grid, split="train", hardness=1.0, mnist_folder=None):
    """One picture: (PIL image, things, [(task, question, answer), ...])."""
    if task in ("number", "word"):
        picture, things, questions = draw_string(rng, grid, split, task, hardness)
    elif task == "display":
        picture, things, questions = draw_display(rng, grid, split, hardness)
    elif task == "handwriting":
        picture, things, questions = draw_handwriting(rng, grid, split, mnist_folder)
    else:
        picture, things, questions = draw_shapes(rng, grid, task, hardness)
    return weather(rng, picture), things, questions


# ------------------------------------------------------------------------------------------------ what the processor does
def cut_tiles(picture):
    """SmolVLMImageProcessor (PIL backend) for one picture: uint8 tiles (n, 64, 64, 3), the overall view last, and the grid."""
    w, h = picture.size
    if w >= h:
        W, H = LONGEST_EDGE, int(LONGEST_EDGE / (w / h))
        H += H % 2
    else:
        H, W = LONGEST_EDGE, int(LONGEST_EDGE * (w / h))
        W += W % 2
    picture = picture.resize((max(W, 1), max(H, 1)), Image.LANCZOS)
    rows, columns = -(-picture.height // TILE), -(-picture.width // TILE)
    picture = picture.resize((columns * TILE, rows * TILE), Image.LANCZOS)
    overall = np.asarray(picture.resize((TILE, TILE), Image.LANCZOS))
    parts = np.asarray(picture).reshape(rows, TILE, columns, TILE, 3).swapaxes(1, 2).reshape(-1, TILE, TILE, 3)
    return np.concatenate([parts, overall[None]]), (rows, columns)


def place_targets(things, size, grid):
    """For every 8x8 patch of every tile the class and colour of what covers it; for every 16x16 cell which centres it holds."""
    views = []
    for rows, columns in (grid, (1, 1)):
        h, w = rows * 8, columns * 8
        cover, centres = np.zeros((h, w, 2), np.uint8), np.zeros((h // 2, w // 2, len(CLASSES) + len(SHADES)), bool)
        for kind, shade, x, y, width, height in things:
            X, Y, half_w, half_h = x / size[0] * w, y / size[1] * h, width / size[0] * w / 2, height / size[1] * h / 2
            x0, x1 = math.ceil(X - half_w - 0.5), math.floor(X + half_w - 0.5)          # patches whose middle is inside
            y0, y1 = math.ceil(Y - half_h - 0.5), math.floor(Y + half_h - 0.5)
            px, py = min(max(int(X), 0), w - 1), min(max(int(Y), 0), h - 1)
            cover[max(y0, 0):y1 + 1, max(x0, 0):x1 + 1] = kind, shade
            cover[py, px] = kind, shade
            centres[py // 2, px // 2, kind] = True
            if shade:
                centres[py // 2, px // 2, len(CLASSES) + shade] = True
        views.append((cover.reshape(rows, 8, columns, 8, 2).swapaxes(1, 2).reshape(-1, 8, 8, 2),
                      centres.reshape(rows, 4, columns, 4, -1).swapaxes(1, 2).reshape(rows * columns, 16, -1)))
    cover, centres = (np.concatenate(parts) for parts in zip(*views))
    cells = cover.reshape(-1, 4, 2, 4, 2, 2).swapaxes(2, 3).reshape(-1, 16, 4, 2)       # 4 patches of each 16x16 cell
    return cells, centres
