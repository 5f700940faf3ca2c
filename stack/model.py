"""Makes the tiny model that the real stack serves: random weights, nothing downloaded.

    .venv-real/bin/python stack/model.py [DIRECTORY]

Runs under the real stack's Python (it needs torch and transformers). The directory is
.cache-real/model unless named. The same pins and the same licence texts give the same
bytes; a second call finds the stamp and returns at once.

A random model sometimes answers with bytes that are no UTF-8, and then no chunk of its
stream carries text. Here the output rows of every token that is not printable ASCII, and
of the special tokens, are zero: such a token is practically never chosen, every token
is text, and an answer is as long as `max_tokens` says.
"""

import hashlib
import os
import shutil
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

SEED = 20_260_601
VOCABULARY = 4_096
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
LICENCES = Path("/usr/share/common-licenses")

# Fresh weights give logits of deviation 0.45, nearly a uniform choice at temperature 1.
# Ten times that makes the zero rows unreachable: exp(0) against exp(4.5 * 3) and more.
OUTPUT_SCALE = 10.0

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

STAMP = "kv-model.stamp"


def licence_texts() -> list[str]:
    """The texts to train the tokenizer on, in an order that does not depend on the disk."""
    if not LICENCES.is_dir():
        raise SystemExit(f"model.py: no licence texts at {LICENCES}; install Debian's base-files")
    files = sorted(path for path in LICENCES.iterdir() if path.is_file() and not path.is_symlink())
    return [path.read_text(encoding="utf-8", errors="replace") for path in files]


def fingerprint(texts: list[str]) -> str:
    """What the model's bytes depend on: this program, its libraries and the texts."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for package in ("torch", "transformers", "tokenizers"):
        digest.update(f"{package} {version(package)}\n".encode())
    for text in texts:
        digest.update(text.encode())
    return digest.hexdigest() + "\n"


def make_tokenizer(texts: list[str], directory: Path):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    if core.get_vocab_size() != VOCABULARY:
        size = core.get_vocab_size()
        raise SystemExit(f"model.py: {LICENCES} gives {size} tokens, not {VOCABULARY}: too little")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=None,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )
    tokenizer.save_pretrained(directory)
    return tokenizer


def unspeakable_tokens(tokenizer) -> list[int]:
    """Token ids whose text is not printable ASCII (space and newline are), and the specials."""
    special = set(tokenizer.all_special_ids) | set(
        tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS))
    )
    speakable = {chr(code) for code in range(32, 127)} | {"\n"}
    return [
        token
        for token in range(VOCABULARY)
        if token in special or not set(tokenizer.decode([token])) <= speakable
    ]


def make_model(tokenizer, directory: Path) -> int:
    """Saves the weights and returns how many parameters there are."""
    import torch
    from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=512,
        intermediate_size=1_216,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=2,  # 4 KiB of KV for each token: small stores hold many prompts
        max_position_embeddings=32_768,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="bfloat16",
    )
    torch.manual_seed(SEED)
    model = Qwen2ForCausalLM(config)
    with torch.no_grad():
        model.lm_head.weight.mul_(OUTPUT_SCALE)
        model.lm_head.weight[unspeakable_tokens(tokenizer)] = 0.0
    model = model.to(torch.bfloat16)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(directory)
    return sum(parameter.numel() for parameter in model.parameters())


def build(target: Path, texts: list[str], stamp: str) -> None:
    """Makes everything beside the target and moves it there whole, so that no reader sees half."""
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="model-", dir=target.parent))
    try:
        tokenizer = make_tokenizer(texts, scratch)
        count = make_model(tokenizer, scratch)
        (scratch / STAMP).write_text(stamp, encoding="ascii")
        shutil.rmtree(target, ignore_errors=True)
        scratch.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print(f"model.py: {count / 1e6:.1f} M parameters in {target}", file=sys.stderr)


def main(arguments: list[str]) -> int:
    if len(arguments) > 1 or any(word.startswith("-") for word in arguments):
        print(__doc__, file=sys.stderr)
        return 2
    default = Path(__file__).resolve().parents[1] / ".cache-real" / "model"
    target = Path(arguments[0]).resolve() if arguments else default
    texts = licence_texts()
    stamp = fingerprint(texts)
    made = target / STAMP
    if not (made.is_file() and made.read_text(encoding="ascii") == stamp):
        build(target, texts, stamp)
    return 0


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
    sys.exit(main(sys.argv[1:]))
