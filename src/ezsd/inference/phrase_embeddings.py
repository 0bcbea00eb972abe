"""The text embeddings of phrases: those that are stored with a model, and those of new ones by its teacher."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ezsd.detector.model_config import ModelConfig
from ezsd.inference.model_teacher import ModelTeacher
from ezsd.inference.near_names import NearNames
from ezsd.inference.vocabulary import Names
from ezsd.teacher import Teacher
from ezsd.teacher.text_cache import cached
from ezsd.utils.files import digest

_NEW_PHRASES = 10_000  # with kept embeddings; a service can be asked for any number of names


class PhraseEmbeddings:
    """Embeddings by phrase. New ones are encoded by the teacher, and kept in memory and on disk. Safe for threads.

    Args:
        config: The configuration of the model.
        known: [C, D], the text embeddings of ``config.names``.
        teacher: The teacher for other phrases; it is loaded when it is needed.
    """

    def __init__(self, config: ModelConfig, known: Tensor, teacher: ModelTeacher) -> None:
        known = known.float().cpu()
        self._config, self._source = config, teacher
        self._rows: dict[str, Tensor] = dict(zip(config.names, known, strict=True))
        # The stored text embeddings identify the text tower, so cached embeddings are found without loading it.
        self._text_key = digest(config.teacher, known.numpy().tobytes(), teacher.norms or "")
        self._teacher: Teacher | None = None
        self._near = NearNames()
        self._lock = threading.Lock()  # of the rows, for moments: a server calls from several threads
        self._encoding = threading.Lock()  # one thread loads the teacher and encodes; others go on with known phrases

    def has(self, given: Names) -> bool:
        """Return whether the embeddings of all phrases are in memory."""
        keys = _keys(given)
        return len(self._kept(keys)) == len(keys)

    def of(self, given: Names, device: str) -> Tensor:
        """Return the embeddings [P, D] of all phrases, float32, unit length, on the CPU.

        Args:
            given: The names with their phrases.
            device: Where the teacher encodes new ones.

        Raises:
            ArtifactError: Phrases are new, and the teacher must be named.
            MissingExtraError: The packages of the teacher are not installed.
        """
        keys, templates = _keys(given), given.templates or (self._config.prompt,)
        rows = self._kept(keys)
        if len(rows) < len(keys):
            with self._encoding:
                rows |= self._kept(keys)  # another thread may have encoded some
                if unknown := [phrase for phrase in keys if phrase not in rows]:
                    made = cached(
                        digest(self._text_key, *templates, "", *unknown),
                        lambda: self._encode(unknown, templates, device),
                    )
                    new = dict(zip(unknown, made, strict=True))
                    rows |= new
                    self._keep({keys[phrase]: row for phrase, row in new.items()})
        phrases = [phrase for phrases in given.phrases for phrase in phrases]
        embeddings = torch.stack([rows[phrase] for phrase in phrases])
        self._near.note(given, embeddings.numpy())
        return embeddings

    def _kept(self, keys: Mapping[str, str]) -> dict[str, Tensor]:
        """Return the embeddings [D] of those phrases that are in memory."""
        with self._lock:
            return {phrase: self._rows[key] for phrase, key in keys.items() if key in self._rows}

    def _keep(self, rows: Mapping[str, Tensor]) -> None:
        with self._lock:
            self._rows.update(rows)
            for key in list(self._rows)[len(self._config.names) : -_NEW_PHRASES]:  # the oldest new phrases
                del self._rows[key]

    @torch.no_grad()
    def _encode(self, phrases: Sequence[str], templates: Sequence[str], device: str) -> Tensor:
        if self._teacher is None:
            self._teacher = self._source.load(device)
        texts = [template.replace("{name}", phrase) for phrase in phrases for template in templates]
        rows = self._teacher.encode_names(texts).float().cpu()
        return F.normalize(rows.view(len(phrases), len(templates), -1).mean(dim=1), dim=1)


def _keys(given: Names) -> dict[str, str]:
    """Return the key of the embedding of each phrase."""
    phrases = (phrase for phrases in given.phrases for phrase in phrases)
    return {phrase: digest(phrase, *given.templates) if given.templates else phrase for phrase in phrases}
