"""A causal language model as a network for ``training.loop.fit``: it trains on rows of any length without padding.

On disk it is a folder in the Hugging Face layout that ``AutoModelForCausalLM.from_pretrained`` loads as it is, with its
tokenizer and chat template; a GGUF file is read as well (``feilun.models.gguf``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from peft.tuners.lora import LoraLayer
from tokenizers import Tokenizer
from torch import Tensor, nn

from feilun.errors import ArtifactError, StepError
from feilun.models import blocks, building, chat, control, gguf, tokens, weights
from feilun.models.adapting import methods
from feilun.models.adapting.adaptable import Adaptable, positions
from feilun.models.building import quiet
from feilun.models.chat import Chat, Message

HEAD = "words"
GGUF = "model.gguf"


class Words(nn.Module):
    """The head of a causal model is its own: a probability for each word piece. Nothing to train here."""

    name = HEAD


class Causal(Adaptable):
    """A transformers model (``encoder``, its language-model head included), its tokenizer and its template.

    ``probes``: conversations with the ids that they were trained as; ``save`` compares them with what the saved folder
    encodes. It stays in eval mode while it is trained, as ``feilun.models.network.Network`` does.
    """

    task_type = methods.CAUSAL
    without = ("prefix", "prompt")  # their tokens would have to be put before every answer that is written

    def __init__(self, encoder: Any, tokenizer: Tokenizer, talk: Chat, context: int) -> None:
        super().__init__(encoder)
        self.tokenizer = tokenizer
        self.chat = talk
        self.context = context
        self.labels: tuple[str, ...] = ()
        self.head = Words()
        self.decided: dict[str, Any] = {}
        self.probes: list[tuple[list[dict[str, str]], list[int]]] = []
        self.eval()

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Logits (N, L, V) from ids and mask (N, L), float32; each row is read from left to right."""
        logits: Tensor = self.encoder(input_ids=ids, attention_mask=mask, use_cache=False).logits.float()
        return logits

    def states(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """The last states of all tokens of all rows, one after the other: (T, H).

        No row sees another (attention and positions begin anew with each), and none is padded.
        """
        self._narrow()
        device = self.embeddings.weight.device
        flat = torch.tensor([i for row in rows for i in row], device=device).unsqueeze(0)
        positions = torch.cat([torch.arange(len(row), device=device) for row in rows]).unsqueeze(0)
        with self._as_autocast_has_it():
            found: Tensor = self.encoder.get_decoder()(
                input_ids=flat,
                position_ids=positions,
                attention_mask=flat.new_empty(1, 1, 1, 1),  # so that none is made: attention goes by the lengths
                lengths=[len(row) for row in rows],
                use_cache=False,
            ).last_hidden_state
        return found[0]

    def surprise(self, rows: Sequence[Sequence[int]], counts: Sequence[Sequence[bool]]) -> tuple[Tensor, Tensor]:
        """Minus the log-probability of each token that counts, given the tokens before it, and its row's number.

        Args:
            counts: which tokens of each row count; the first of a row cannot.

        Returns:
            (n,) float32 and (n,) int64: only for tokens that count a logit is ever computed.
        """
        states = self.states(rows)
        flags = torch.tensor([bool(c) and i > 0 for row in counts for i, c in enumerate(row)])
        targets = flags.nonzero().squeeze(1).to(states.device)
        numbers = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor([len(row) for row in rows]))
        flat = torch.tensor([i for row in rows for i in row], device=states.device)
        head = self.encoder.get_output_embeddings()
        lost = blocks.surprise(states[targets - 1], head.weight, flat[targets])
        return lost, numbers.to(states.device)[targets]

    @property
    def embeddings(self) -> Any:
        """What turns ids into vectors."""
        return self.encoder.get_input_embeddings()

    @property
    def stops(self) -> frozenset[int]:
        """Tokens after which nothing more is said."""
        told = self.encoder.generation_config.eos_token_id or self.encoder.config.eos_token_id
        listed = told if isinstance(told, list) else [] if told is None else [told]
        named = self.tokenizer.token_to_id(self.chat.specials.get("eos_token", ""))
        return frozenset([*listed, *([] if named is None else [named])])

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of texts that a template made: it has put in the special tokens itself."""
        return [e.ids for e in self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def prompts(self, conversations: Sequence[Sequence[Message]]) -> list[list[int]]:
        """Token ids of what is read before an answer is written. Training and serving both ask here."""
        return self.encode(self.chat.prompts(self.told(conversations)))

    def wholes(self, conversations: Sequence[Sequence[Message]]) -> list[list[int]]:
        """Token ids of conversations with their answers."""
        return self.encode(self.chat.whole(self.told(conversations)))

    def told(self, conversations: Sequence[Sequence[Message]]) -> list[list[dict[str, str]]]:
        """Conversations as templates see them: what is a special token in a message is parted (``control``)."""
        return control.told(self.tokenizer, conversations, parted=bool(self.chat.template))

    def relabel(self, labels: Sequence[str], seed: int, head: str = HEAD) -> None:
        """Nothing: words need no labels."""

    @contextlib.contextmanager
    def _as_autocast_has_it(self) -> Iterator[None]:
        """Inside, LoRA does not widen its input to float32 only for autocast to narrow it again."""
        wide = not torch.is_autocast_enabled(self.embeddings.weight.device.type)
        put = [m for m in self.encoder.modules() if isinstance(m, LoraLayer)] if self.adapted and not wide else []
        for module in put:
            module.cast_input_dtype_enabled = False
        try:
            yield
        finally:
            for module in put:
                module.cast_input_dtype_enabled = True

    def _narrow(self) -> None:
        """What an adapter leaves as it is need not be wider than the products: half the memory, and nothing to convert.

        The saved weights are these, widened again: what is served is what was trained on.
        """
        kind = self.embeddings.weight.device.type
        if self.adapted is None or not torch.is_autocast_enabled(kind) or torch.distributed.is_initialized():
            return
        for parameter in self.encoder.parameters():
            if not parameter.requires_grad and parameter.dtype == torch.float32:
                parameter.data = parameter.data.to(torch.get_autocast_dtype(kind))


def load(folder: Path, context: int | None = None) -> Causal:
    """The model in a folder, in float32.

    Args:
        context: the most tokens that a row may have; what the model was saved with by default, else all it can read.

    Raises:
        ArtifactError: a file is missing or damaged, weights are missing, or have no finite value.
    """
    if (folder / GGUF).is_file():
        encoder, tokenizer, about = gguf.load(folder / GGUF)
        told = about.get("chat_template")
        talk = Chat(chat.PLAIN if told is None else told, chat.specials(about))
        tokenizer.no_truncation()
    else:
        encoder = _load_encoder(folder)
        tokenizer = tokens.load_tokenizer(folder, positions(encoder))
        tokenizer.no_truncation()
        talk = chat.load(folder)
    blocks.install(encoder)
    _own_manner(encoder)
    network = Causal(encoder, tokenizer, talk, context or _context(folder) or positions(encoder))
    network.restore(folder)
    if (folder / "config.json").is_file():
        network.decided = tokens.load_decided(folder)
    return network


def save(network: Causal, folder: Path, task: str = "generate") -> None:
    """Write the model to an empty folder, in the layout that ``load`` and transformers read.

    Raises:
        StepError: the folder would encode a conversation otherwise than it was trained on.
    """
    config = network.encoder.config
    config.feilun = {"task": task, "head": HEAD, "context": network.context} | (
        {"decided": network.decided} if network.decided else {}
    )
    network.encoder.float()
    with quiet(), network.plain(folder):
        network.encoder.save_pretrained(folder)
    building.check_saved(folder)
    network.tokenizer.save(str(folder / "tokenizer.json"))
    chat.save(network.chat, folder, network.context)
    check(network, folder)


def check(network: Causal, folder: Path) -> None:
    """Ask transformers, from the saved files alone, how it encodes what was trained; it is what other servers do.

    Raises:
        StepError: not as it was trained.
    """
    if not network.probes:
        return
    with quiet():
        theirs = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    for conversation, trained in network.probes:
        if network.chat.template:
            served = theirs.apply_chat_template(conversation, add_generation_prompt=True, return_dict=False)
        else:
            served = theirs.encode("".join(m["content"] for m in conversation), add_special_tokens=False)
        if list(served) != trained:
            raise mismatch(network.tokenizer, trained, list(served), "a saved model")


def mismatch(tokenizer: Tokenizer, trained: list[int], served: list[int], where: str) -> StepError:
    """The error for ids that training and serving do not share; it names the first that differs."""
    at = next(
        (i for i, (a, b) in enumerate(zip(trained, served, strict=False)) if a != b), min(map(len, (trained, served)))
    )
    near = tokenizer.decode(trained[max(0, at - 8) : at + 4], skip_special_tokens=False)
    return StepError(
        f"what would be trained is not what would be served: token {at + 1} is {_at(tokenizer, trained, at)} in "
        f"training, {_at(tokenizer, served, at)} in serving, near '{near}'",
        where=where,
        hint='the template changes what it rendered before; learn_from = "last" or template = "plain" avoid that',
        code="template-mismatch",
    )


def _at(tokenizer: Tokenizer, ids: list[int], at: int) -> str:
    return repr(tokenizer.id_to_token(ids[at])) if at < len(ids) else "absent"


def _own_manner(encoder: Any) -> None:
    """How a base's maker wrote answers (beams, penalties, forbidden words) is not how these are written.

    transformers fills whatever a call leaves open from there, so nothing but the special tokens may stay.
    """
    told = encoder.generation_config
    encoder.generation_config = transformers.GenerationConfig(
        bos_token_id=told.bos_token_id, eos_token_id=told.eos_token_id, pad_token_id=told.pad_token_id
    )


def _context(folder: Path) -> int:
    if not (folder / "config.json").is_file():
        return 0
    context = tokens.told(folder).get("context", 0)
    if not isinstance(context, int):
        raise ArtifactError("the model's configuration cannot be read", where=str(folder / "config.json"))
    return context


def _load_encoder(folder: Path) -> Any:
    held: dict[str, Tensor] = {}
    for place in sorted(folder.glob("*.safetensors")):
        held |= weights.read(place)  # whole and finite, before anything else looks at it
    model, found = building.build(transformers.AutoModelForCausalLM, folder, held, attention="sdpa")
    if found["missing_keys"] or found["mismatched_keys"]:
        names = ", ".join(str(n) for n in [*found["missing_keys"], *found["mismatched_keys"]][:3])
        raise ArtifactError(f"weights are missing or of another shape: {names}", where=str(folder))
    return model
