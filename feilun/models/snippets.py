"""Programs that answer with an exported model and without feilun, one for each kind of head; its card shows them.

Each reads one question, ``text`` (and ``other`` of a pair), and leaves what the head says in ``answer``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LOAD = """\
import json
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoTokenizer

folder = "."
config = AutoConfig.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModel.from_pretrained(folder{pooler}).eval()
"""
READ = """
text = "{text}"
given = tokenizer(text, truncation=True, return_tensors="pt")
"""
READ_PAIR = """
text, other = "{text}", "another text"
given = tokenizer(text, other, truncation=True, return_tensors="pt", return_offsets_mapping={offsets})
"""
STATES = """\
with torch.inference_mode():  # it was trained without token types: they are not given
    states = model(input_ids=given["input_ids"], attention_mask=given["attention_mask"]).last_hidden_state[0]
"""
HEAD = """\
head = load_file(f"{folder}/head.safetensors")
"""
MEAN = """\
output = head["weight"] @ states.mean(0) + head["bias"]  # the mean over the tokens of the text
"""
ANSWERS = {
    "label": MEAN
    + """\
scores = output.softmax(-1).tolist()
answer = {config.id2label[i]: score for i, score in enumerate(scores)}  # the label is the one with the highest
""",
    "labels": MEAN
    + """\
scores = output.sigmoid().tolist()
threshold = config.feilun.get("decided", {}).get("threshold", 0.5)
answer = [config.id2label[i] for i, score in enumerate(scores) if score >= threshold]
""",
    "number": MEAN
    + """\
answer = (output * head["spread"] + head["centre"]).item()  # the head answers in units of spread around centre
""",
    "vector": """\
answer = torch.nn.functional.normalize(states.mean(0), dim=-1).tolist()  # compare two by their product
""",
    "tokens": """\
scores = (states @ head["weight"].T + head["bias"]).softmax(-1)  # of each token, [CLS] and [SEP] included
tags = [config.id2label[i] for i in scores.argmax(-1).tolist()]
answer = list(zip(tokenizer.convert_ids_to_tokens(given["input_ids"][0]), tags))
# B- begins a name, I- goes on; feilun lets the pieces of a word decide together (their mean), and cuts long texts
""",
    "ends": """\
starts, ends = (states @ head["weight"].T + head["bias"]).T  # of each token; the first one stands for "no answer"
least = config.feilun.get("decided", {}).get("least", 0.0)
inside = [i for i, part in enumerate(given.sequence_ids(0)) if part == 1]
score, first, last = max((starts[i] + ends[j], i, j) for i in inside for j in inside if i <= j < i + 64)
lead = (score - starts[0] - ends[0]).item() - least  # feilun looks through a long text in windows
places = given["offset_mapping"][0].tolist()
answer = other[places[first][0] : places[last][1]] if lead > 0 else ""
""",
}
TABLE = """\
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
columns = [(one.name, one.type, one.shape) for one in session.get_inputs()]  # of one input config.json has the names
# answer = session.run(None, {name: array for each of them})
"""
WRITE = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder).eval()
text = "a question"
if tokenizer.chat_template:
    question = [{{"role": "user", "content": text}}]
    given = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_dict=True, return_tensors="pt")
else:
    given = tokenizer(text, add_special_tokens=False, return_tensors="pt")
written = model.generate(**given, max_new_tokens={tokens}, do_sample=False)
answer = tokenizer.decode(written[0, given["input_ids"].shape[1] :], skip_special_tokens=True)
"""
OPENVINO = """\
import openvino

model = openvino.Core().compile_model("model.xml", "CPU")
"""
PAIRS = ("pair", "similarity", "rank", "extract")
POOLERS = ("bert", "roberta", "xlm-roberta", "mpnet", "camembert", "electra")[:5]  # whose AutoModel takes the option
HEADS = {"classify": "label", "pair": "label", "multilabel": "labels", "embed": "vector", "tag": "tokens"}
HEADS |= {"extract": "ends", "regress": "number", "similarity": "number", "rank": "number"}
WITHIN = ("adapter", "prefix", "prompt")  # methods whose change is not merged into the weights


def of(facts: Mapping[str, Any], model_type: str, *, words: int = 128) -> str | None:
    """The program for a model with these facts; None where only feilun can answer with it.

    Args:
        model_type: as its config.json has it.
        words: tokens that a written answer has at the most.
    """
    if facts.get("format") == "openvino":
        return OPENVINO
    task = str(facts.get("task", ""))
    if facts.get("format") == "adapter" or facts.get("method") in WITHIN or model_type.startswith("feilun"):
        return None
    if task in ("generate", "prefer"):
        return WRITE.format(tokens=words)
    pooler = ", add_pooling_layer=False" if model_type in POOLERS else ""
    load = LOAD.format(pooler=pooler)
    if task not in HEADS:  # a base
        return load
    head = HEADS[task]
    read = READ_PAIR.format(text="a text", offsets=head == "ends") if task in PAIRS else READ.format(text="a text")
    return load + read + STATES + (HEAD if head != "vector" else "") + ANSWERS[head]
