// model.c: checks the bytes of a .smol file (FORMAT.md) and gives views of its parts. It trusts nothing: after smol_open has
// returned 0, every tensor has the name, shape and place that the configuration demands, inside the file.

#include "internal.h"

#include <string.h>

enum { HEADER_BYTES = 512, ENTRY_BYTES = 160, NAME_BYTES = 96 };

// ---- header ----

// Reads fields one after another, in the order of FORMAT.md.
typedef struct {
    const uint8_t *p;
} Cursor;

static uint32_t next_u32(Cursor *c) {
    c->p += 4;
    return get_u32(c->p - 4);
}

// Counts and ids: what does not fit an int becomes -1, as the file's "none" does.
static int next_int(Cursor *c) {
    uint32_t v = next_u32(c);
    return v > INT32_MAX ? -1 : (int)v;
}

static float next_f32(Cursor *c) {
    uint32_t bits = next_u32(c);
    float v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

static double next_f64(Cursor *c) {
    uint64_t bits = get_u64(c->p);
    double v;
    memcpy(&v, &bits, sizeof v);
    c->p += 8;
    return v;
}

static void read_config(SmolConfig *c, int *act, int *v_act, int *resample, const uint8_t *header) {
    Cursor at = {header + 60};
    c->weight_type = next_int(&at);
    c->family = next_int(&at);
    c->template_kind = next_int(&at);
    c->dim = next_int(&at);
    c->hidden_dim = next_int(&at);
    c->n_layers = next_int(&at);
    c->n_heads = next_int(&at);
    c->n_kv_heads = next_int(&at);
    c->head_dim = next_int(&at);
    c->vocab_size = next_int(&at);
    c->max_positions = next_int(&at);
    c->rms_norm_eps = next_f32(&at);
    c->rope_theta = next_f32(&at);
    c->tied = next_int(&at);
    *act = next_int(&at);
    c->image_size = next_int(&at);
    c->patch_size = next_int(&at);
    c->v_dim = next_int(&at);
    c->v_hidden_dim = next_int(&at);
    c->v_layers = next_int(&at);
    c->v_heads = next_int(&at);
    c->v_eps = next_f32(&at);
    *v_act = next_int(&at);
    c->scale_factor = next_int(&at);
    c->tile_size = next_int(&at);
    c->longest_edge = next_int(&at);
    c->image_seq_len = next_int(&at);
    c->do_image_splitting = next_int(&at);
    *resample = next_int(&at);
    c->rescale_factor = next_f64(&at);
    for (int i = 0; i < 3; i++) c->image_mean[i] = next_f32(&at);
    for (int i = 0; i < 3; i++) c->image_std[i] = next_f32(&at);
    c->video_max_frames = next_int(&at);
    c->video_size = next_int(&at);
    c->video_fps = next_f64(&at);
    c->bos_id = next_int(&at);
    c->pad_id = next_int(&at);
    c->image_token_id = next_int(&at);
    c->n_eos = next_int(&at);
    for (int i = 0; i < 4; i++) c->eos_id[i] = next_int(&at);
}

// ---- configuration ----

typedef struct {
    const char *name;
    int value, min, max;
} Range;

// Bounds far above any model of these families; with them no product of two sizes overflows 64 bits. All that is about pictures
// is 0 in a model that reads text only, so that v below is the least and the factor of each bound.
static int check_ranges(const SmolConfig *c, int act, int v_act, int resample, SmolErr *err) {
    int v = c->family == SMOL_SMOLVLM;
    const Range ranges[] = {
        {"weight_type", c->weight_type, 0, 2},
        {"family", c->family, SMOL_SMOLVLM, SMOL_LLAMA},
        {"template", c->template_kind, 0, 5},
        {"dim", c->dim, 1, 1 << 16},
        {"hidden_dim", c->hidden_dim, 1, 1 << 18},
        {"n_layers", c->n_layers, 1, 512},
        {"n_heads", c->n_heads, 1, 1024},
        {"n_kv_heads", c->n_kv_heads, 1, 1024},
        {"head_dim", c->head_dim, 2, 1024},
        {"vocab_size", c->vocab_size, 1, 1 << 20},
        {"max_positions", c->max_positions, 1, 1 << 20},
        {"tied", c->tied, 0, 1},
        {"act", act, 1, 1},
        {"image_size", c->image_size, v, v * 4096},
        {"patch_size", c->patch_size, v, v * 256},
        {"v_dim", c->v_dim, v, v << 16},
        {"v_hidden_dim", c->v_hidden_dim, v, v << 18},
        {"v_layers", c->v_layers, 0, v * 512},
        {"v_heads", c->v_heads, v, v * 1024},
        {"v_act", v_act, v, v},
        {"scale_factor", c->scale_factor, v, v * 16},
        {"tile_size", c->tile_size, v, v * 4096},
        {"longest_edge", c->longest_edge, v, v << 15},
        {"image_seq_len", c->image_seq_len, v, v << 20},
        {"do_image_splitting", c->do_image_splitting, 0, v},
        {"resample", resample, v, v},
        {"image_token_id", c->image_token_id, v ? 0 : -1, v ? c->vocab_size - 1 : -1},
        {"n_eos", c->n_eos, 1, 4},
    };
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++) {
        const Range *r = &ranges[i];
        if (r->value < r->min || r->value > r->max) {
            return fail(err, SMOL_E_FORMAT, "header: %s is %d, not within %d to %d", r->name, r->value, r->min, r->max);
        }
    }
    return 0;
}

// Positive, at most max, and no NaN.
static int within(double v, double max) { return v > 0 && v <= max; }

static int check_vision(const SmolConfig *c, SmolErr *err) {
    if (c->v_dim % c->v_heads) {
        return fail(err, SMOL_E_FORMAT, "header: v_heads %d does not divide v_dim %d", c->v_heads, c->v_dim);
    }
    if (c->tile_size != c->image_size) {
        return fail(err, SMOL_E_FORMAT, "header: tile_size %d differs from image_size %d", c->tile_size, c->image_size);
    }
    int side = c->image_size / c->patch_size / c->scale_factor;
    if (c->patch_size > c->image_size || c->image_size / c->patch_size % c->scale_factor || c->image_seq_len != side * side) {
        return fail(err, SMOL_E_FORMAT, "header: image_size %d, patch_size %d and scale_factor %d do not give image_seq_len %d",
                    c->image_size, c->patch_size, c->scale_factor, c->image_seq_len);
    }
    if (!within(c->v_eps, 1) || !within(c->rescale_factor, 1)) {
        return fail(err, SMOL_E_FORMAT, "header: v_eps or rescale_factor is not within 0 to 1");
    }
    for (int i = 0; i < 3; i++) {
        if (!within(c->image_std[i], 1e6) || !within((double)c->image_mean[i] + 1e6, 2e6)) {
            return fail(err, SMOL_E_FORMAT, "header: image_mean or image_std is out of range");
        }
    }
    return 0;
}

static int check_config(const SmolConfig *c, SmolErr *err) {
    if (c->n_heads % c->n_kv_heads) {
        return fail(err, SMOL_E_FORMAT, "header: n_kv_heads %d does not divide n_heads %d", c->n_kv_heads, c->n_heads);
    }
    if (c->head_dim % 2) return fail(err, SMOL_E_FORMAT, "header: head_dim %d is odd", c->head_dim);
    if (!within(c->rms_norm_eps, 1)) return fail(err, SMOL_E_FORMAT, "header: rms_norm_eps is not within 0 to 1");
    for (int i = 0; i < c->n_eos; i++) {
        if (c->eos_id[i] < 0 || c->eos_id[i] >= c->vocab_size) {
            return fail(err, SMOL_E_FORMAT, "header: eos_id %d is not in the vocabulary of %d", c->eos_id[i], c->vocab_size);
        }
    }
    return c->family == SMOL_SMOLVLM ? check_vision(c, err) : 0;
}

// ---- tensors ----

Places model_places(const SmolConfig *c) {
    Places p = {-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};
    int next = 0;
    if (c->family == SMOL_SMOLVLM) {
        p.patch_w = next++;
        p.patch_b = next++;
        p.pos_emb = next++;
        p.vision_layers = next;
        next += c->v_layers * N_VISION_LAYER;
        p.post_ln_w = next++;
        p.post_ln_b = next++;
        p.connector = next++;
    }
    p.tok_emb = next++;
    p.text_layers = next;
    next += c->n_layers * N_TEXT_LAYER;
    p.norm = next++;
    p.lm_head = c->tied ? p.tok_emb : next++;
    p.inv_freq = next++;
    p.n_tensors = next;
    return p;
}

// What a tensor must be. A matrix is multiplied, so it lies in panels; all else is rows of floats.
typedef struct {
    const char *name;
    int n_rows, n_cols, matrix;
} Spec;

static Spec vision_spec(const SmolConfig *c, int i) {
    int d = c->v_dim, h = c->v_hidden_dim;
    const Spec specs[N_VISION_LAYER] = {
        [LN1_W] = {"layer_norm1.weight", 1, d, 0},       [LN1_B] = {"layer_norm1.bias", 1, d, 0},
        [VQ_W] = {"self_attn.q_proj.weight", d, d, 1},   [VQ_B] = {"self_attn.q_proj.bias", 1, d, 0},
        [VK_W] = {"self_attn.k_proj.weight", d, d, 1},   [VK_B] = {"self_attn.k_proj.bias", 1, d, 0},
        [VV_W] = {"self_attn.v_proj.weight", d, d, 1},   [VV_B] = {"self_attn.v_proj.bias", 1, d, 0},
        [VO_W] = {"self_attn.out_proj.weight", d, d, 1}, [VO_B] = {"self_attn.out_proj.bias", 1, d, 0},
        [LN2_W] = {"layer_norm2.weight", 1, d, 0},       [LN2_B] = {"layer_norm2.bias", 1, d, 0},
        [FC1_W] = {"mlp.fc1.weight", h, d, 1},           [FC1_B] = {"mlp.fc1.bias", 1, h, 0},
        [FC2_W] = {"mlp.fc2.weight", d, h, 1},           [FC2_B] = {"mlp.fc2.bias", 1, d, 0},
    };
    return specs[i];
}

static Spec text_spec(const SmolConfig *c, int i) {
    int d = c->dim, h = c->hidden_dim, q = c->n_heads * c->head_dim, kv = c->n_kv_heads * c->head_dim;
    const Spec specs[N_TEXT_LAYER] = {
        [NORM1] = {"input_layernorm.weight", 1, d, 0},
        [WQ] = {"self_attn.q_proj.weight", q, d, 1},
        [WK] = {"self_attn.k_proj.weight", kv, d, 1},
        [WV] = {"self_attn.v_proj.weight", kv, d, 1},
        [WO] = {"self_attn.o_proj.weight", d, q, 1},
        [NORM2] = {"post_attention_layernorm.weight", 1, d, 0},
        [W_GATE] = {"mlp.gate_proj.weight", h, d, 1},
        [W_UP] = {"mlp.up_proj.weight", h, d, 1},
        [W_DOWN] = {"mlp.down_proj.weight", d, h, 1},
    };
    return specs[i];
}

// The tensors outside the layers.
static Spec single_spec(const SmolConfig *c, const Places *at, int i) {
    int grid = c->patch_size ? c->image_size / c->patch_size : 0;
    const Spec patch_w = {"model.vision_model.embeddings.patch_embedding.weight", c->v_dim, 3 * c->patch_size * c->patch_size, 1};
    const Spec patch_b = {"model.vision_model.embeddings.patch_embedding.bias", 1, c->v_dim, 0};
    const Spec pos_emb = {"model.vision_model.embeddings.position_embedding.weight", grid * grid, c->v_dim, 0};
    const Spec post_ln_w = {"model.vision_model.post_layernorm.weight", 1, c->v_dim, 0};
    const Spec post_ln_b = {"model.vision_model.post_layernorm.bias", 1, c->v_dim, 0};
    const Spec connector = {"model.connector.modality_projection.proj.weight", c->dim, c->v_dim * c->scale_factor * c->scale_factor, 1};
    const Spec tok_emb = {"embed_tokens.weight", c->vocab_size, c->dim, 1};
    const Spec norm = {"norm.weight", 1, c->dim, 0};
    const Spec lm_head = {"lm_head.weight", c->vocab_size, c->dim, 1};
    const Spec inv_freq = {"rope.inv_freq", 1, c->head_dim / 2, 0};
    if (i == at->patch_w) return patch_w;
    if (i == at->patch_b) return patch_b;
    if (i == at->pos_emb) return pos_emb;
    if (i == at->post_ln_w) return post_ln_w;
    if (i == at->post_ln_b) return post_ln_b;
    if (i == at->connector) return connector;
    if (i == at->tok_emb) return tok_emb;
    if (i == at->norm) return norm;
    return i == at->inv_freq ? inv_freq : lm_head;
}

// The tensor that must stand at place i of the directory, with its whole name.
static Spec expected(const SmolConfig *c, const Places *at, int i, char name[NAME_BYTES]) {
    const char *decoder = c->family == SMOL_SMOLVLM ? "model.text_model." : "model.";
    int in_vision = i - at->vision_layers, in_text = i - at->text_layers;
    Spec s;
    if (in_vision >= 0 && i < at->post_ln_w) {
        s = vision_spec(c, in_vision % N_VISION_LAYER);
        format_text(name, NAME_BYTES, "model.vision_model.encoder.layers.%d.%s", in_vision / N_VISION_LAYER, s.name);
    } else if (in_text >= 0 && i < at->norm) {
        s = text_spec(c, in_text % N_TEXT_LAYER);
        format_text(name, NAME_BYTES, "%slayers.%d.%s", decoder, in_text / N_TEXT_LAYER, s.name);
    } else {
        s = single_spec(c, at, i);
        format_text(name, NAME_BYTES, "%s%s", i == at->tok_emb || i == at->norm ? decoder : "", s.name);
    }
    return s;
}

static const uint8_t *entry(const SmolModel *m, int i) { return m->bytes + get_u64(m->bytes + 48) + (size_t)i * ENTRY_BYTES; }

static int check_entry(const SmolModel *m, const Places *at, int i, SmolErr *err) {
    const uint8_t *e = entry(m, i);
    char name[NAME_BYTES] = {0};
    Spec want = expected(&m->config, at, i, name);
    if (memcmp(e, name, NAME_BYTES) != 0) return fail(err, SMOL_E_FORMAT, "directory: tensor %d is not %s", i, name);

    uint32_t type = get_u32(e + 96), n_rows = get_u32(e + 100), n_cols = get_u32(e + 104);
    if (n_rows != (uint32_t)want.n_rows || n_cols != (uint32_t)want.n_cols) {
        return fail(err, SMOL_E_FORMAT, "%s is %u x %u, the configuration wants %d x %d", name, n_rows, n_cols, want.n_rows,
                    want.n_cols);
    }
    if (want.matrix ? type < SMOL_F32X16 || type > SMOL_Q4 : type != SMOL_F32) {
        return fail(err, SMOL_E_FORMAT, "%s has type %u", name, type);
    }
    if ((type == SMOL_Q8 || type == SMOL_Q4) && m->config.weight_type == WEIGHTS_F32) {
        return fail(err, SMOL_E_FORMAT, "%s is quantised, but the header says that nothing is", name);
    }
    int in_layer = i - at->text_layers;
    if (in_layer >= 0 && in_layer < m->config.n_layers * N_TEXT_LAYER && in_layer % N_TEXT_LAYER == W_UP &&
        type != get_u32(e - ENTRY_BYTES + 96)) {
        return fail(err, SMOL_E_FORMAT, "%s has another type than gate_proj, with which it is multiplied", name);
    }

    uint64_t offset = get_u64(e + 112), size = get_u64(e + 120), rows = (uint64_t)want.n_rows;
    uint64_t wanted = want.matrix ? (rows + LANES - 1) / LANES * panel_bytes((int)type, want.n_cols) : rows * n_cols * 4;
    if (size != wanted) return fail(err, SMOL_E_FORMAT, "%s has the wrong size", name);
    if (offset % 64 || offset > m->n_bytes || size > m->n_bytes - offset) {
        return fail(err, SMOL_E_FORMAT, "%s lies outside the file, which seems to be cut off", name);
    }
    return 0;
}

void smol_tensor(const SmolModel *m, int i, SmolTensor *t) {
    const uint8_t *e = entry(m, i);
    memcpy(t->name, e, NAME_BYTES);
    t->type = (int)get_u32(e + 96);
    t->n_rows = (int)get_u32(e + 100);
    t->n_cols = (int)get_u32(e + 104);
    t->data = m->bytes + get_u64(e + 112);
    t->bytes = (size_t)get_u64(e + 120);
    t->sha256 = e + 128;
}

// Neither NaN nor infinity, which both have all bits of the exponent set.
static int is_finite_f32(const uint8_t *p, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if ((get_u32(p + 4 * i) & 0x7f800000) == 0x7f800000) return 0;
    }
    return 1;
}

static int is_finite_f16(const uint8_t *p, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if ((p[2 * i + 1] & 0x7c) == 0x7c) return 0;
    }
    return 1;
}

// Whatever the quants are, with finite scales all weights are finite.
static int is_finite_tensor(const SmolTensor *t) {
    const uint8_t *data = t->data;
    if (t->type == SMOL_F32 || t->type == SMOL_F32X16) return is_finite_f32(data, t->bytes / 4);
    int block = t->type == SMOL_Q8 ? Q8_BLOCK : Q4_BLOCK;
    size_t n_blocks = ((size_t)t->n_cols + (size_t)block - 1) / (size_t)block, step = (size_t)panel_bytes(t->type, t->n_cols);
    for (size_t at = 0; at < t->bytes; at += step) {
        if (!is_finite_f16(data + at, n_blocks * LANES)) return 0;
    }
    return 1;
}

int smol_verify(const SmolModel *m, int i, SmolErr *err) {
    SmolTensor t;
    smol_tensor(m, i, &t);
    SmolSha256 s;
    uint8_t digest[32];
    smol_sha256_init(&s);
    smol_sha256_add(&s, t.data, t.bytes);
    smol_sha256_end(&s, digest);
    if (memcmp(digest, t.sha256, 32) != 0)
        return fail(err, SMOL_E_FORMAT, "%s does not have its recorded SHA-256: the file is damaged", t.name);
    if (!is_finite_tensor(&t)) return fail(err, SMOL_E_FORMAT, "%s holds NaN or infinity, as no exporter writes it", t.name);
    return 0;
}

// ---- the whole file ----

static int check_section(const SmolModel *m, const char *name, uint64_t offset, uint64_t size, SmolErr *err) {
    if (offset % 64 == 0 && offset >= HEADER_BYTES && offset <= m->n_bytes && size <= m->n_bytes - offset) return 0;
    return fail(err, SMOL_E_FORMAT, "the %s lies outside the file", name);
}

static int check_header(const SmolModel *m, SmolErr *err) {
    const uint8_t *h = m->bytes;
    if (m->n_bytes == 0) return fail(err, SMOL_E_FORMAT, "the file is empty");
    if (m->n_bytes < 8 || memcmp(h, "SMOL", 4) != 0) {
        return fail(err, SMOL_E_FORMAT, "not a .smol file (make one with export/export.py)");
    }
    if (get_u32(h + 4) != 1) {
        return fail(err, SMOL_E_FORMAT, "format version %u, this program reads version 1: export the model again", get_u32(h + 4));
    }
    if (m->n_bytes < HEADER_BYTES) return fail(err, SMOL_E_FORMAT, "cut off within the header, at %z bytes", m->n_bytes);
    if (get_u64(h + 8) != m->n_bytes) {
        return fail(err, SMOL_E_FORMAT, "the file has %z bytes, its header says %z: cut off, or added to", m->n_bytes,
                    (size_t)get_u64(h + 8));
    }
    return 0;
}

static int check_inv_freq(const SmolModel *m, const Places *at, SmolErr *err) {
    SmolTensor t;
    smol_tensor(m, at->inv_freq, &t);
    const float *f = t.data;
    for (int j = 0; j < t.n_cols; j++) {
        if (!within(f[j], 1)) return fail(err, SMOL_E_FORMAT, "rope.inv_freq is not within 0 to 1");
    }
    return 0;
}

static void hash_sections(SmolModel *m) {
    SmolSha256 s;
    const uint8_t *h = m->bytes;
    smol_sha256_init(&s);
    smol_sha256_add(&s, h, HEADER_BYTES);
    smol_sha256_add(&s, h + get_u64(h + 16), (size_t)get_u64(h + 24));
    smol_sha256_add(&s, m->provenance, m->provenance_bytes);
    smol_sha256_add(&s, entry(m, 0), (size_t)m->n_tensors * ENTRY_BYTES);
    smol_sha256_end(&s, m->sha256);
}

int smol_open(SmolModel *m, const void *bytes, size_t n_bytes, SmolErr *err) {
    *m = (SmolModel){.bytes = bytes, .n_bytes = n_bytes};
    const uint8_t *h = bytes;
    if ((uintptr_t)bytes % 16) return fail(err, SMOL_E_FORMAT, "the model lies at an address that is no multiple of 16");
    int code = check_header(m, err);
    if (code) return code;

    int act, v_act, resample;
    read_config(&m->config, &act, &v_act, &resample, h);
    if ((code = check_ranges(&m->config, act, v_act, resample, err)) || (code = check_config(&m->config, err))) return code;

    Places at = model_places(&m->config);
    m->n_tensors = at.n_tensors;
    if (get_u32(h + 56) != (uint32_t)at.n_tensors) {
        return fail(err, SMOL_E_FORMAT, "header: %u tensors, the configuration wants %d", get_u32(h + 56), at.n_tensors);
    }
    if ((code = check_section(m, "tokenizer", get_u64(h + 16), get_u64(h + 24), err)) ||
        (code = check_section(m, "provenance", get_u64(h + 32), get_u64(h + 40), err)) ||
        (code = check_section(m, "directory", get_u64(h + 48), (uint64_t)at.n_tensors * ENTRY_BYTES, err))) {
        return code;
    }
    m->provenance = (const char *)h + get_u64(h + 32);
    m->provenance_bytes = (size_t)get_u64(h + 40);
    for (int i = 0; i < at.n_tensors; i++) {
        if ((code = check_entry(m, &at, i, err))) return code;
    }
    if ((code = check_inv_freq(m, &at, err))) return code;
    hash_sections(m);
    code = vocab_open(&m->vocab, h + get_u64(h + 16), (size_t)get_u64(h + 24), m->config.vocab_size, err);
    return code ? code : template_check(m, err);
}
