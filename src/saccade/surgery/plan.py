"""A plan: the edits that turn a host into an augmented one, as data that can be written down and read back."""

from __future__ import annotations

import json
import uuid
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from saccade._checks import check_choice, check_json
from saccade.errors import UsageError

SCHEMA = "saccade.plan/1"
Mode = Literal["after", "replace", "before"]
Start = Literal["paper", "identity"]


@dataclass(frozen=True)
class Edit:
    """One mechanism at one place: ``after`` a module's output, ``before`` its input, or in the module's place."""

    site: str
    mode: Mode
    attention: str
    options: dict[str, Any] = field(default_factory=dict, hash=False)
    start: Start = "identity"

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, get_args(Mode))
        check_choice("start", self.start, get_args(Start))
        # As they would be read back, so that a plan equals the one in its file.
        object.__setattr__(self, "options", check_json("options", self.options))

    @property
    def place(self) -> tuple[str, bool, str]:
        """What an edit may be once: its module, whether it is before that, its mechanism."""
        return self.site, self.mode == "before", self.attention

    def __str__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
        return f"{self.attention}({options}) {self.mode} {self.site}, start={self.start}"


@dataclass(eq=False)
class Mark:
    """What an edit of a live network is known by, wherever its module moves and in every copy of it."""

    edit: Edit
    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    stripped: bool = False
    """Whether it was taken off on purpose."""


@dataclass(frozen=True)
class Plan:
    """A list of edits. ``Plan.from_json(plan.to_json()) == plan``; prints one line for each.

    Of a live model it also knows how many parameters each edit brought; that is no part of its JSON.
    """

    edits: tuple[Edit, ...] = ()
    parameters: tuple[int, ...] = field(default=(), compare=False, repr=False)

    def __len__(self) -> int:
        return len(self.edits)

    def __str__(self) -> str:
        if not self.parameters:
            return "\n".join(str(edit) for edit in self.edits) or "no edits"
        lines = [f"{edit}: {count:+,} parameters" for edit, count in zip(self.edits, self.parameters, strict=True)]
        return "\n".join((*lines, f"{len(self)} edits, {sum(self.parameters):+,} parameters"))

    def to_json(self) -> str:
        return json.dumps({"schema": SCHEMA, "edits": [asdict(edit) for edit in self.edits]}, indent=2)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read a plan back; anything that is not a plan of this schema is an error that says why."""
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise UsageError(f"not a plan: {error}") from None
        schema = data.get("schema") if isinstance(data, dict) else None
        if schema != SCHEMA:
            raise UsageError(f"not a plan of schema {SCHEMA!r}: its schema is {schema!r}")
        if not isinstance(data.get("edits"), list):
            raise UsageError(f"not a plan: its `edits` (={data.get('edits')!r}) must be a list")
        return cls(tuple(_read_edit(entry) for entry in data["edits"]))


def _read_edit(entry: Any) -> Edit:
    names = {f.name for f in fields(Edit)}
    if not isinstance(entry, dict) or set(entry) != names:
        raise UsageError(f"not an edit of a plan: {entry!r} must have exactly the keys {sorted(names)}")
    kinds = {"site": str, "attention": str, "options": dict}
    if wrong := [name for name, kind in kinds.items() if not isinstance(entry[name], kind)]:
        raise UsageError(
            f"not an edit of a plan: {entry!r} must have text as `site` and `attention` and a mapping as `options`; "
            f"`{wrong[0]}` is not"
        )
    return Edit(**entry)
