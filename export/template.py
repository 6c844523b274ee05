"""Which of the engine's chat templates (template.c) a model has.

A model's own template is a small program. It is run on a few conversations, as transformers would, and what it writes is
compared with what the engine writes. Comparing that, and not the program's text, lets later revisions through.
"""

NONE, SMOLVLM, CHATML, SMOLLM2, MISTRAL_V3, MISTRAL_V7 = range(6)  # the header's template
NAMES = ("no template", "SmolVLM", "ChatML", "SmolLM2", "Mistral v3", "Mistral v7")

IMAGE = None  # in the conversations below
PICTURES = [
    [("user", "What is the capital of France?")],
    [("user", IMAGE, "Can you describe this image?")],
    [("user", "What colour is the car? ", IMAGE)],
    [("user", IMAGE, IMAGE, "Compare.", " Briefly.")],
    [("system", "You are  a helpful\nassistant."), ("user", IMAGE, "What is <this>?")],
    [("user", IMAGE, "Describe."), ("assistant", "A cat."), ("user", "What breed?"), ("assistant", " Siamese & co")],
]
TURNS = [("user", " Why is the sky <blue>?"), ("assistant", "Because it is."), ("user", "And\nat sunset? ")]
SYSTEM = [("system", "You are  terse.")]
TEXTS = [SYSTEM + TURNS[:1], SYSTEM + TURNS, TURNS[:1], TURNS]

DEFAULT_PROMPT = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


# ---- what the engine writes ----

def smolvlm_chat(messages, cue):
    text = "<|im_start|>"
    for role, *items in messages:
        text += role.capitalize() + (":" if items[0] is IMAGE else ": ")
        text += "".join("<image>" if item is IMAGE else item for item in items) + "<end_of_utterance>\n"
    return text + ("Assistant:" if cue else "")


def chatml_chat(messages, cue):
    text = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in messages)
    return text + ("<|im_start|>assistant\n" if cue else "")


def smollm2_chat(messages, cue):
    return chatml_chat(([] if messages[0][0] == "system" else [("system", DEFAULT_PROMPT)]) + messages, cue)


def mistral_v3_chat(messages, cue, space):
    """space: what SentencePiece puts before a text, which the templates of its models write themselves."""
    system = "".join(f"{content}\n\n" for role, content in messages if role == "system")
    last = max(i for i, (role, _) in enumerate(messages) if role == "user")
    text = "<s>"
    for i, (role, content) in enumerate(messages):
        if role == "user":
            text += f"[INST]{space}{system if i == last else ''}{content}[/INST]"
        elif role == "assistant":
            text += f"{space}{content}</s>"
    return text


def mistral_v7_chat(messages, cue, space):
    forms = {"system": "[SYSTEM_PROMPT]{}{}[/SYSTEM_PROMPT]", "user": "[INST]{}{}[/INST]", "assistant": "{}{}</s>"}
    return "<s>" + "".join(forms[role].format(space, content) for role, content in messages)


# ---- what a template writes ----

def compiled(template):
    """The program, with what transformers gives such programs to call."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message):
        raise ValueError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    environment.globals.update(raise_exception=raise_exception, strftime_now=lambda form: "2000-01-01")
    return environment.from_string(template)


def rendered(program, messages, cue, parts):
    """parts: messages as lists of items, which templates of models with pictures want; others want strings."""
    chat = []
    for role, *items in messages:
        content = [{"type": "image"} if item is IMAGE else {"type": "text", "text": item} for item in items]
        chat.append({"role": role, "content": content if parts else items[0]})
    return program.render(messages=chat, add_generation_prompt=cue, bos_token="<s>", eos_token="</s>")


def is_template(program, conversations, chat, parts, cues=(False, True)):
    try:
        return all(rendered(program, c, cue, parts) == chat(c, cue) for c in conversations for cue in cues)
    except Exception:  # whatever goes wrong in it, it is not this one
        return False


def template_kind(template, space):
    """The number of the template that this text is, and whether it has a system prompt of its own that the engine leaves out:
    Mistral's hold the day's date."""
    try:
        program = compiled(template)
    except Exception:  # not even a program
        return NONE, False
    if is_template(program, PICTURES, smolvlm_chat, True):
        return SMOLVLM, False
    for parts in (False, True):
        for kind, chat in ((CHATML, chatml_chat), (SMOLLM2, smollm2_chat)):
            if is_template(program, TEXTS, chat, parts):
                return kind, False
        for kind, chat in ((MISTRAL_V3, mistral_v3_chat), (MISTRAL_V7, mistral_v7_chat)):
            def spaced(messages, cue, chat=chat):
                return chat(messages, cue, space)
            if is_template(program, TEXTS[:2], spaced, parts, (True,)):
                return kind, not is_template(program, TEXTS[2:], spaced, parts, (True,))
    return NONE, False


# Mistral's own files have a version in place of a template. Up to 13, versions from 7 on differ only in tools.
VERSIONS = {"v3": MISTRAL_V3, "v7": MISTRAL_V7, "v11": MISTRAL_V7, "v13": MISTRAL_V7}


def mistral_version(folder):
    """What tekken.json says, or the name of tokenizer.model.v3; None without either."""
    if folder.has("tekken.json"):
        config = folder.json("tekken.json").get("config")
        return config.get("version") if isinstance(config, dict) else None
    return next((v for v in ("v7", "v3") if folder.has(f"tokenizer.model.{v}")), None)


def chat_template(folder):
    """The template's text, wherever that generation of transformers put it, or None."""
    if folder.has("chat_template.jinja"):
        return folder.text("chat_template.jinja")
    for name in ("chat_template.json", "processor_config.json", "tokenizer_config.json"):
        template = folder.json(name, optional=True).get("chat_template")
        if isinstance(template, list):  # several named ones
            template = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}.get("default")
        if isinstance(template, str):
            return template
    return None


def find_template(folder, space):
    """The number of the folder's template, and a line that the user should read, or None. space: whether the tokenizer puts a
    space before a text."""
    template = chat_template(folder)
    kind, has_default = template_kind(template, " " if space else "") if template else (NONE, False)
    kind = kind or VERSIONS.get(mistral_version(folder), NONE)
    if not kind:
        what = "none that smol.c knows" if template else "missing"
        return kind, f"the chat template is {what}; run will need --raw"
    if has_default:
        return kind, "the chat template's own system prompt, with today's date, is left out: give one with -s"
    return kind, None
