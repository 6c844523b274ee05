// sample_frames.c: which frames of a video are taken, for tests/test_video.py. A line of standard input has the number of
// frames, their rate, --max-frames, and the model's number of frames and rate; the answer has the frames' numbers.

#include "../smol.h"
#include "test.h"

int main(void) {
    enum { MOST = 1024 };
    static int frames[MOST];
    SmolConfig c = {.video_size = 512};
    SmolErr err;
    int n_total, max_frames;
    double fps;
    while (scanf("%d %lf %d %d %lf", &n_total, &fps, &max_frames, &c.video_max_frames, &c.video_fps) == 5) {
        if (c.video_max_frames > MOST) return 2;
        int n = smol_video_sample(&c, n_total, fps, max_frames, frames, &err);
        if (n < 0) printf("error %d: %s", n, err.text);
        for (int i = 0; i < n; i++) printf(i ? " %d" : "%d", frames[i]);
        putchar('\n');
    }
    return 0;
}
