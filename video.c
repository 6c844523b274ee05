// video.c: the frames of a video, one at a time: a folder of pictures, a Y4M stream, or PPM pictures one after another.
//
//     ffmpeg -i in.mp4 -vf scale=out_color_matrix=bt601 -pix_fmt yuv420p -f yuv4mpegpipe - | run MODEL -v - "What happens?"
//
// Which frames are taken depends on how many there are, so a stream is read twice: header after header to count them,
// then up to the frames that are wanted. What cannot be read twice, standard input and pipes, is first copied to a
// temporary file. Memory holds one frame, however long the video is. Every frame, whatever it came from, becomes the
// bytes of a picture file, which the engine decodes and resizes like any other picture.

#define _DEFAULT_SOURCE
#define _FILE_OFFSET_BITS 64

#include "cli.h"

#include <dirent.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FOLDER, Y4M, PPM };
enum { DEFAULT_RATE = 24 };  // of a video that says none, in the reference

// Fills err and returns -1. The line is cut where err->text ends.
static int bad(SmolErr *err, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(err->text, sizeof err->text, format, args);
    va_end(args);
    err->code = SMOL_E_FORMAT;
    return err->code;
}

int video_blame(const Video *v, int frame, SmolErr *err) {
    char text[sizeof err->text];
    memcpy(text, err->text, sizeof text);
    if (v->names) snprintf(err->text, sizeof err->text, "frame %d (%.80s): %.150s", frame + 1, v->names[frame], text);
    else snprintf(err->text, sizeof err->text, "frame %d: %.200s", frame + 1, text);
    return err->code;
}

// All frames have the size of the first.
static int check_frame(Video *v, int frame, int width, int height, SmolErr *err) {
    if (width < 1 || height < 1) return bad(err, "a frame of %d x %d pixels", width, height);
    if (height > (1 << 28) / width) return bad(err, "a frame of %d x %d pixels, more than 2^28", width, height);
    if (frame == 0) v->width = width, v->height = height;
    if (width == v->width && height == v->height) return 0;
    return bad(err, "%d x %d pixels, but the frames before have %d x %d", width, height, v->width, v->height);
}

// ---- folders ----

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static void add_name(Video *v, const char *name) {
    char *copy = need(NULL, strlen(name) + 1, "names of frames");
    size_t n = (size_t)v->n_total;
    if ((n & (n - 1)) == 0) v->names = need(v->names, (n ? 2 * n : 1) * sizeof *v->names, "names of frames");
    v->names[v->n_total++] = strcpy(copy, name);
}

// The names in the order of their bytes, without those that begin with a dot.
static int list_folder(Video *v, DIR *folder, SmolErr *err) {
    const struct dirent *entry;
    v->kind = FOLDER;
    while (v->n_total < INT32_MAX && (errno = 0, entry = readdir(folder))) {
        if (entry->d_name[0] != '.') add_name(v, entry->d_name);
    }
    int code = errno ? bad(err, "%s", strerror(errno)) : 0;
    closedir(folder);
    if (code) return code;
    if (v->n_total == 0) return bad(err, "a folder without pictures");
    qsort(v->names, (size_t)v->n_total, sizeof *v->names, by_name);
    return 0;
}

static int read_frame(Video *v, const char *path, size_t n, SmolErr *err) {
    FILE *f = fopen(path, "rb");
    if (!f) return bad(err, "%s", strerror(errno));
    v->bytes = need(v->bytes, n, "frame");
    v->n_bytes = n;
    int code = fread(v->bytes, 1, n, f) == n ? 0 : bad(err, "%s", ferror(f) ? strerror(errno) : "the file has changed while it was read");
    fclose(f);
    return code;
}

static int folder_frame(Video *v, int frame, SmolPicture *p, SmolErr *err) {
    struct stat info;
    size_t length = strlen(v->name) + strlen(v->names[frame]) + 2;
    char *path = need(NULL, length, "name");
    snprintf(path, length, "%s/%s", v->name, v->names[frame]);
    int code;
    if (stat(path, &info)) code = bad(err, "%s", strerror(errno));
    else if (!S_ISREG(info.st_mode)) code = bad(err, "not a file");
    else if (info.st_size == 0) code = bad(err, "the file is empty");
    else if ((uintmax_t)info.st_size > PTRDIFF_MAX) code = bad(err, "the file is too large");
    else code = read_frame(v, path, (size_t)info.st_size, err);
    free(path);
    if (!code) code = smol_picture_probe(p, v->bytes, v->n_bytes, err);
    return code ? code : check_frame(v, frame, p->width, p->height, err);
}

// ---- PPM: P6 and P5 pictures one after another ----

static int is_space(int c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

// The next byte of a header that is not in a comment, as the engine reads it when the frame is decoded.
static int ppm_char(FILE *f) {
    int c = getc(f);
    while (c == '#') {
        while (c != '\n' && c != '\r' && c != EOF) c = getc(f);
        if (c != EOF) c = getc(f);
    }
    return c;
}

// A number of the header; the one whitespace behind it is read, too. -1: there is none, or more than nine digits.
static int ppm_number(FILE *f) {
    int c = ppm_char(f), v = 0, digits = 0;
    while (is_space(c)) c = ppm_char(f);
    for (; c >= '0' && c <= '9' && digits < 9; c = ppm_char(f), digits++) v = 10 * v + (c - '0');
    return digits && is_space(c) ? v : -1;
}

// Reads the header of the next frame; *n: bytes of its pixels. 0 at the end.
static int ppm_header(Video *v, int frame, uint64_t *n, SmolErr *err) {
    int c = getc(v->stream), kind;
    if (c == EOF) return 0;
    kind = getc(v->stream);
    if (c != 'P' || (kind != '5' && kind != '6') || !is_space(getc(v->stream))) {
        return bad(err, "PPM: no P6 or P5 picture begins here");
    }
    int width = ppm_number(v->stream), height = ppm_number(v->stream), maxval = ppm_number(v->stream);
    if (width < 0 || height < 0 || maxval < 1 || maxval > 65535) {
        return bad(err, "PPM: the header is broken or cut off");
    }
    *n = (uint64_t)width * (uint64_t)height * (kind == '6' ? 3 : 1) * (maxval > 255 ? 2 : 1);
    int code = check_frame(v, frame, width, height, err);
    return code ? code : 1;
}

// ---- Y4M ----
//
// "YUV4MPEG2 W640 H480 F30000:1001 C420jpeg XCOLORRANGE=LIMITED", a newline, and for each frame "FRAME", a newline and
// the planes Y, Cb and Cr. Chroma planes of odd pictures are rounded up. Fields of interlaced video stay interleaved.

static const struct {
    const char *name;
    int across, down;  // pixels that share a chroma sample; 0: no chroma
} y4m_formats[] = {
    {"420jpeg", 2, 2}, {"420mpeg2", 2, 2}, {"420paldv", 2, 2}, {"420", 2, 2}, {"422", 2, 1}, {"444", 1, 1},
    {"mono", 0, 0},
};

// Digits only, up to end; -1 for anything else and for more than nine digits.
static int y4m_number(const char *s, char end) {
    int v = 0, digits = 0;
    for (; *s >= '0' && *s <= '9' && digits < 9; s++, digits++) v = 10 * v + (*s - '0');
    return digits && *s == end ? v : -1;
}

static int y4m_format(Video *v, const char *name, SmolErr *err) {
    for (size_t i = 0; i < sizeof y4m_formats / sizeof *y4m_formats; i++) {
        if (strcmp(name, y4m_formats[i].name) != 0) continue;
        v->across = y4m_formats[i].across;
        v->down = y4m_formats[i].down;
        return 0;
    }
    return bad(err, "Y4M: colours of the kind %.20s are not read; ffmpeg makes others with -pix_fmt yuv420p", name);
}

static int y4m_parameter(Video *v, char *word, SmolErr *err) {
    char *colon = strchr(word, ':');
    switch (*word) {
    case 'W': v->width = y4m_number(word + 1, 0); break;
    case 'H': v->height = y4m_number(word + 1, 0); break;
    case 'C': return y4m_format(v, word + 1, err);
    case 'F': {
        int n = y4m_number(word + 1, ':'), per = colon ? y4m_number(colon + 1, 0) : -1;
        if (n < 0 || per < 0) return bad(err, "Y4M: the header is broken: %.40s", word);
        if (n && per) v->fps = (double)n / per;  // 0:0 says that it is not known
        break;
    }
    case 'X':
        if (!strcmp(word, "XCOLORRANGE=FULL")) v->full_range = 1;
    }
    return v->width < 0 || v->height < 0 ? bad(err, "Y4M: the header is broken: %.40s", word) : 0;
}

// The stream's first line, after its magic word.
static int y4m_open(Video *v, SmolErr *err) {
    char line[1024], *save;
    if (!fgets(line, sizeof line, v->stream) || !strchr(line, '\n')) {
        return bad(err, "Y4M: the header is broken or cut off");
    }
    line[strcspn(line, "\n")] = 0;
    v->across = v->down = 2;
    for (char *word = strtok_r(line, " ", &save); word; word = strtok_r(NULL, " ", &save)) {
        int code = word == line ? 0 : y4m_parameter(v, word, err);
        if (code) return code;
    }
    v->first = (uint64_t)ftello(v->stream);
    return check_frame(v, 0, v->width, v->height, err);
}

static int y4m_chroma_width(const Video *v) { return v->across ? (v->width + v->across - 1) / v->across : 0; }

static int y4m_chroma_height(const Video *v) { return v->down ? (v->height + v->down - 1) / v->down : 0; }

static int y4m_header(Video *v, uint64_t *n, SmolErr *err) {
    char line[1024];
    if (!fgets(line, sizeof line, v->stream)) return 0;
    if (strncmp(line, "FRAME", 5) != 0 || (line[5] != '\n' && line[5] != ' ') || !strchr(line, '\n')) {
        return bad(err, "Y4M: no FRAME line begins here");
    }
    *n = (uint64_t)v->width * (uint64_t)v->height + 2 * (uint64_t)y4m_chroma_width(v) * (uint64_t)y4m_chroma_height(v);
    return 1;
}

static uint8_t to_sample(int32_t v) {
    v = (v + (1 << 15)) >> 16;
    return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
}

// BT.601, as no header says anything else, with 16 bits after the point; video has 16 .. 235 for Y and 16 .. 240 for chroma unless the header says FULL.
//     R = Y + 1.402 Cr    G = Y - 0.344136 Cb - 0.714136 Cr    B = Y + 1.772 Cb
// A pixel takes the chroma sample of the block that it lies in, wherever the format says that the sample sits: no
// reference fixes that, and the resize to a tile averages much more.
static const struct Y4mRange { int32_t black, luma, red, green_blue, green_red, blue; } y4m_ranges[] = {
    {16, 76309, 104597, 25675, 53279, 132201},  // times 255 / 219, and 255 / 224 for chroma
    {0, 65536, 91881, 22554, 46802, 116130},
};

static void y4m_to_rgb(const Video *v, const uint8_t *planes, uint8_t *rgb) {
    const struct Y4mRange *k = &y4m_ranges[v->full_range];
    int cw = y4m_chroma_width(v);
    const uint8_t *cb = planes + (size_t)v->width * (size_t)v->height;
    const uint8_t *cr = cb + (size_t)cw * (size_t)y4m_chroma_height(v);
    for (int y = 0; y < v->height; y++) {
        for (int x = 0; x < v->width; x++) {
            size_t at = cw ? (size_t)(y / v->down) * (size_t)cw + (size_t)(x / v->across) : 0;
            int32_t luma = (*planes++ - k->black) * k->luma, b = cw ? cb[at] - 128 : 0, r = cw ? cr[at] - 128 : 0;
            *rgb++ = to_sample(luma + k->red * r);
            *rgb++ = to_sample(luma - k->green_blue * b - k->green_red * r);
            *rgb++ = to_sample(luma + k->blue * b);
        }
    }
}

// ---- streams ----

// The stream from its beginning, in a file that can be read twice.
static int spool(Video *v, FILE *in, SmolErr *err) {
    char block[1 << 16];
    size_t n;
    FILE *out = nameless_file(NULL);
    if (!out) return bad(err, "there is no place for a temporary file: %s", strerror(errno));
    while ((n = fread(block, 1, sizeof block, in)) > 0 && fwrite(block, 1, n, out) == n) continue;
    v->stream = out;
    if (ferror(in)) return bad(err, "%s", strerror(errno));
    if (ferror(out) || fflush(out)) return bad(err, "the temporary file cannot be written: %s", strerror(errno));
    rewind(out);
    return 0;
}

static int open_stream(Video *v, SmolErr *err) {
    struct stat info;
    int is_stdin = !strcmp(v->name, "-"), code = 0;
    FILE *in = is_stdin ? stdin : fopen(v->name, "rb");
    if (!in) return bad(err, "%s", strerror(errno));
    if (!is_stdin && !fstat(fileno(in), &info) && S_ISREG(info.st_mode)) v->stream = in;
    else code = spool(v, in, err);
    if (!is_stdin && v->stream != in) fclose(in);
    if (code) return code;
    if (fstat(fileno(v->stream), &info)) return bad(err, "%s", strerror(errno));
    v->size = (uint64_t)info.st_size;
    if (v->size == 0) return bad(err, "the stream is empty");

    char magic[9] = {0};
    size_t n = fread(magic, 1, sizeof magic, v->stream);
    if (n == 9 && !memcmp(magic, "YUV4MPEG2", 9)) {
        v->kind = Y4M;
        return y4m_open(v, err);
    }
    v->kind = PPM;
    if (magic[0] == 'P' && (magic[1] == '5' || magic[1] == '6')) return 0;
    return bad(err, "not a folder, a Y4M or a PPM stream; this makes one: ffmpeg -i in.mp4"
                    " -vf scale=out_color_matrix=bt601 -pix_fmt yuv420p out.y4m");
}

// Reads the header of the next frame and finds its bytes, with the header of a PPM; 0 at the end of the stream.
static int next_frame(Video *v, uint64_t *begin, uint64_t *n, SmolErr *err) {
    *begin = (uint64_t)ftello(v->stream);
    int more = v->kind == Y4M ? y4m_header(v, n, err) : ppm_header(v, v->at, n, err);
    if (more <= 0) return more < 0 || !ferror(v->stream) ? more : bad(err, "%s", strerror(errno));
    uint64_t pixels = (uint64_t)ftello(v->stream);
    if (*n > v->size || pixels > v->size - *n) {
        return bad(err, "cut off: %d x %d pixels need %llu bytes, and %llu are left", v->width, v->height,
                   (unsigned long long)*n, (unsigned long long)(v->size - pixels));
    }
    if (v->kind == Y4M) *begin = pixels;
    *n += pixels - *begin;
    if (fseeko(v->stream, (off_t)(*begin + *n), SEEK_SET)) return bad(err, "%s", strerror(errno));
    v->at++;
    return 1;
}

static int count_frames(Video *v, SmolErr *err) {
    uint64_t begin, n = 0;
    int more = fseeko(v->stream, (off_t)v->first, SEEK_SET) ? bad(err, "%s", strerror(errno)) : 1;
    while (more > 0 && v->at < INT32_MAX) more = next_frame(v, &begin, &n, err);
    v->n_total = v->at;
    return more < 0 ? video_blame(v, v->at, err) : 0;
}

// The frame's bytes as a picture file, in v->bytes; the planes of Y4M go behind it.
static int stream_frame(Video *v, int frame, SmolPicture *p, SmolErr *err) {
    uint64_t begin = 0, n = 0;
    int more = 1;
    if (frame < v->at) {
        v->at = 0;
        if (fseeko(v->stream, (off_t)v->first, SEEK_SET)) return bad(err, "%s", strerror(errno));
    }
    while (more > 0 && v->at <= frame) more = next_frame(v, &begin, &n, err);
    if (more < 0) return more;
    char header[48] = "";
    size_t n_header = 0, n_rgb = 0;
    if (v->kind == Y4M) {
        n_header = (size_t)snprintf(header, sizeof header, "P6 %d %d 255\n", v->width, v->height);
        n_rgb = n_header + (size_t)v->width * (size_t)v->height * 3;
    }
    if (n_rgb + n > v->n_bytes) {
        v->n_bytes = n_rgb + (size_t)n;
        v->bytes = need(v->bytes, v->n_bytes, "frame");
    }
    if (!more || fseeko(v->stream, (off_t)begin, SEEK_SET) || fread(v->bytes + n_rgb, 1, (size_t)n, v->stream) != n) {
        return bad(err, "the file has changed while it was read");
    }
    if (v->kind == Y4M) {
        memcpy(v->bytes, header, n_header);
        y4m_to_rgb(v, v->bytes + n_rgb, v->bytes + n_header);
    }
    return smol_picture_probe(p, v->bytes, n_rgb ? n_rgb : (size_t)n, err);
}

// ---- what run.c asks for ----

int video_frame(Video *v, int frame, SmolPicture *p, SmolErr *err) {
    int code = v->kind == FOLDER ? folder_frame(v, frame, p, err) : stream_frame(v, frame, p, err);
    return code ? video_blame(v, frame, err) : 0;
}

int video_choose(Video *v, const SmolConfig *c, int max_frames, SmolErr *err) {
    int most = c->video_max_frames < v->n_total ? c->video_max_frames : v->n_total;  // each frame is taken once
    v->frames = need(v->frames, (size_t)(most > 0 ? most : 1) * sizeof *v->frames, "frames");
    int n = smol_video_sample(c, v->n_total, v->fps, max_frames, v->frames, err);
    if (n < 0) return n;
    v->seconds = need(v->seconds, (size_t)n * sizeof *v->seconds, "frames");
    v->sha256 = need(v->sha256, (size_t)n * sizeof *v->sha256, "frames");
    for (int i = 0; i < n; i++) v->seconds[i] = v->frames[i] / v->fps;
    v->video = (SmolVideo){n, v->seconds, v->n_total / v->fps};
    return 0;
}

// Memory for the largest of the chosen frames: what the file's bytes take, and what becomes of them.
static int measure_frames(Video *v, const SmolConfig *c, SmolErr *err) {
    SmolPicture p;
    for (int i = 0; i < v->video.n_frames; i++) {
        int code = video_frame(v, v->frames[i], &p, err);
        if (code) return code;
        size_t work = smol_picture_bytes(c, &p, &v->tiling);
        if (work > v->work_bytes) v->work_bytes = work;
        if (v->kind != FOLDER) break;
    }
    v->work_bytes += v->n_bytes;
    return 0;
}

int video_open(Video *v, const char *name, const SmolConfig *c, double fps, int max_frames, SmolErr *err) {
    char *copy = need(NULL, strlen(name) + 1, "name");
    *v = (Video){.name = strcpy(copy, name)};
    DIR *folder = strcmp(name, "-") ? opendir(name) : NULL;
    int code = folder ? list_folder(v, folder, err) : open_stream(v, err);
    if (!code && !folder) code = count_frames(v, err);
    for (int i = 0; folder && !code && i < v->n_total; i++) {  // what is no frame would shift the times
        SmolPicture p;
        code = video_frame(v, i, &p, err);
    }
    if (!v->fps) v->fps = fps ? fps : DEFAULT_RATE;
    if (!code) code = video_choose(v, c, max_frames, err);
    if (!code) code = smol_video_tiling(c, v->width, v->height, &v->tiling, err);
    if (!code) code = measure_frames(v, c, err);
    if (code) video_close(v);
    return code;
}

void video_close(Video *v) {
    if (v->stream) fclose(v->stream);
    for (int i = 0; v->names && i < v->n_total; i++) free(v->names[i]);
    free(v->names);
    free(v->bytes);
    free(v->frames);
    free(v->seconds);
    free(v->sha256);
    free(v->name);
    *v = (Video){0};
}
