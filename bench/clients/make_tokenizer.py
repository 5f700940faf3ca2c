"""Train a small byte-level BPE on texts: the peers want a tokenizer, and none is downloaded.

python make_tokenizer.py FOLDER TEXT...        run with the Python of an environment of a peer
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]

folder, *texts = sys.argv[1:]
tokenizer = Tokenizer(models.BPE())
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.decoder = decoders.ByteLevel()
trainer = trainers.BpeTrainer(
    vocab_size=4000,
    special_tokens=SPECIAL,
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
)
tokenizer.train_from_iterator((Path(name).read_text(encoding="utf-8") for name in texts), trainer)
whole = PreTrainedTokenizerFast(
    tokenizer_object=tokenizer, eos_token=SPECIAL[2], pad_token=SPECIAL[0], bos_token=SPECIAL[0]
)
whole.chat_template = TEMPLATE
whole.save_pretrained(folder)
# The class goes by another name in transformers 5, which older ones do not know.
told = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": SPECIAL[0],
    "eos_token": SPECIAL[2],
    "pad_token": SPECIAL[0],
}
(Path(folder) / "tokenizer_config.json").write_text(json.dumps(told) + "\n")
# Some peers read a model's config beside its tokenizer; nothing of it is used.
(Path(folder) / "config.json").write_text('{"model_type": "qwen2", "vocab_size": 4000}\n')
