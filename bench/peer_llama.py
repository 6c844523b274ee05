"""llama.cpp, through the bindings of llama-cpp-python: low level, default flags, its own multimodal library."""

import ctypes
import time

import llama_cpp.llama_cpp as ll
import llama_cpp.mtmd_cpp as mm

from gguf_files import files

N_SHORT, N_DECODE = 16, 32  # as in bench.c
QUESTION = "What is in this picture?"


def quiet(*_):
    pass


LOG = ll.llama_log_callback(quiet)
ll.llama_log_set(LOG, ctypes.c_void_p())
mm.mtmd_helper_log_set(LOG, ctypes.c_void_p())


def load(path):
    ll.llama_backend_init()
    return ll.llama_model_load_from_file(path.encode(), ll.llama_model_default_params())


def context(model, n_ctx, threads):
    params = ll.llama_context_default_params()
    params.n_ctx = n_ctx
    params.n_threads = params.n_threads_batch = threads
    return ll.llama_init_from_model(model, params)


def decode(ctx, first, n):
    """n tokens through the decoder, at once."""
    ids = (ll.llama_token * n)(*((i * 7919 + 17) % 32000 for i in range(first, first + n)))
    if ll.llama_decode(ctx, ll.llama_batch_get_one(ids, n)):
        raise RuntimeError("llama_decode failed")
    ll.llama_get_logits(ctx)


def timed(work):
    begin = time.perf_counter()
    work()
    return (time.perf_counter() - begin) * 1e3


def clear(ctx):
    ll.llama_memory_clear(ll.llama_get_memory(ctx), True)


def prefill(name, kind, threads, folder, n=512):
    ctx = context(load(files(name, kind, folder)[0]), n, threads)

    def run():
        clear(ctx)
        return n / timed(lambda: decode(ctx, 0, n)) * 1e3
    return run


def generate(name, kind, threads, folder):
    ctx = context(load(files(name, kind, folder)[0]), N_SHORT + N_DECODE, threads)

    def run():
        clear(ctx)
        decode(ctx, 0, N_SHORT)
        return N_DECODE / timed(lambda: [decode(ctx, N_SHORT + i, 1) for i in range(N_DECODE)]) * 1e3
    return run


# ---- pictures ----

def multimodal(encoder, model, threads):
    params = mm.mtmd_context_params_default()
    params.n_threads, params.warmup, params.print_timings = threads, False, False
    return mm.mtmd_init_from_file(encoder.encode(), model, params)


def picture(width, height):
    """The picture of bench.c."""
    rows = ((x // 4 & 255, y // 3 & 255, (x ^ y) & 255) for y in range(height) for x in range(width))
    return b"".join(bytes(rgb) for rgb in rows)


def tokenize(eyes, pixels, width, height):
    data = (ctypes.c_uint8 * len(pixels)).from_buffer_copy(pixels)
    bitmap = mm.mtmd_bitmap_init(width, height, data)
    prompt = f"<|im_start|>User:{mm.mtmd_default_marker().decode()}{QUESTION}<end_of_utterance>\nAssistant:".encode()
    text = mm.mtmd_input_text(prompt, len(prompt), True, True)
    chunks = mm.mtmd_input_chunks_init()
    if mm.mtmd_tokenize(eyes, chunks, ctypes.byref(text), (ctypes.c_void_p * 1)(bitmap), 1):
        raise RuntimeError("mtmd_tokenize failed")
    return chunks


def chunk_types(chunks):
    every = [mm.mtmd_input_chunks_get(chunks, i) for i in range(mm.mtmd_input_chunks_size(chunks))]
    return [(c, mm.mtmd_input_chunk_get_type(c)) for c in every]


def vision(name, kind, threads, folder):
    decoder, encoder = files(name, kind, folder)
    eyes = multimodal(encoder, load(decoder), threads)
    chunks = tokenize(eyes, picture(64, 64), 64, 64)
    tile = next(c for c, t in chunk_types(chunks) if t == mm.MTMD_INPUT_CHUNK_TYPE_IMAGE)
    return lambda: timed(lambda: mm.mtmd_encode_chunk(eyes, tile))


def question(name, kind, threads, folder):
    """From the files to the first word. The context is no longer than it need be, and there is no warming up: both are to
    llama.cpp's advantage over its command line. One run only: the process has read everything after it."""
    decoder, encoder = files(name, kind, folder)
    pixels = picture(1024, 768)

    def run():
        begin = time.perf_counter()
        model = load(decoder)
        eyes = multimodal(encoder, model, threads)
        chunks = tokenize(eyes, pixels, 1024, 768)
        n = mm.mtmd_helper_get_n_tokens(chunks)
        ctx = context(model, n + N_DECODE, threads)
        past = ctypes.c_int32(0)
        if mm.mtmd_helper_eval_chunks(eyes, ctx, chunks, 0, 0, 2048, True, ctypes.byref(past)):
            raise RuntimeError("mtmd_helper_eval_chunks failed")
        sampler = ll.llama_sampler_init_greedy()
        ll.llama_sampler_sample(sampler, ctx, -1)
        return (time.perf_counter() - begin) * 1e3
    return run
