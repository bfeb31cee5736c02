"""A virtual machine for the few pickle instructions that torch writes, incapable of anything else.

It describes tensors without creating any, and does not check the descriptions. Knows nothing of
files and models.
"""

import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

import torch


class RefusedError(Exception):
    """A file asks for something that no reader of weights does; the message may quote the file."""


class StorageRecord(NamedTuple):
    """The key of the block of bytes in the file that holds a tensor's elements, and their type."""

    dtype: torch.dtype
    key: str


class TensorRecord(NamedTuple):
    """A tensor as a pickle describes it, unchecked."""

    storage: Any
    offset: Any
    size: Any
    stride: Any


class ModuleStub:
    """Stand-in for an instance of a module class: its attributes and nothing else."""

    __slots__ = ("attributes",)

    def __init__(self, *_: object) -> None:
        self.attributes: dict[str, Any] = {}


# Prefixes of classes whose instances become stubs: of TorchScript, of torch, of OpenAI's dVAE
STUBBED = (
    "__torch__.",
    "torch.nn.modules.",
    "dall_e.encoder.",
    "dall_e.decoder.",
    "dall_e.utils.",
)
STORAGES = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
    "torch.ComplexFloatStorage": torch.complex64,
    "torch.ComplexDoubleStorage": torch.complex128,
}
DTYPES = STORAGES | {str(dtype): dtype for dtype in STORAGES.values()}
STAND_INS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": lambda *_: {},
    "torch.device": lambda *_: None,
    "__builtin__.set": lambda *_: None,  # in which a module keeps some of its names
    "builtins.set": lambda *_: None,
    "torch._utils._rebuild_tensor_v2": lambda *described: TensorRecord(*described[:4]),
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
    "torch.jit._pickle.restore_type_tag": lambda value, *_: value,
    **{
        f"torch.jit._pickle.build_{kind}list": lambda values: values
        for kind in ("int", "bool", "double", "tensor")
    },
}


class TensorPickle:
    """The virtual machine, for one pickle.

    Its stack can hold only numbers, strings, lists, tuples, dicts, the records above, and, by name,
    ModuleStub and the values of DTYPES and STAND_INS. No attribute is looked up, nothing is
    imported, nothing else can be called.
    """

    def __init__(self) -> None:
        self.storages: dict[str, torch.dtype] = {}  # the first type named for each key
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self, pickled: bytes | BinaryIO) -> Any:
        """Run a pickle to its end, where a stream is left, and return its result.

        Raises RefusedError if it asks for anything that is not supported here.
        """
        for opcode, argument, _ in pickletools.genops(pickled):
            step = STEPS.get(opcode.name)
            if step is None:
                raise RefusedError(f"it asks to run the pickle instruction {opcode.name}")
            step(self, argument)
        return self.stack.pop()

    def literal(self, value: object) -> None:
        self.stack.append(value)

    def named(self, name: str) -> None:
        """Push the stand-in for a global; pickletools joins module and name by a space."""
        name = name.replace(" ", ".", 1)
        if name.startswith(STUBBED):
            self.stack.append(ModuleStub)
        elif name in DTYPES:
            self.stack.append(DTYPES[name])
        elif name in STAND_INS:
            self.stack.append(STAND_INS[name])
        else:
            raise RefusedError(f"it asks to run {name}")

    def named_on_stack(self, _: None) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            raise ValueError("a global's name is not text")
        self.named(f"{module} {name}")

    def call(self, _: None) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self.stack.append(function(*arguments))

    def persistent(self, _: None) -> None:
        """Push what a persistent id names.

        That is a storage or, before archives, a class, whose source code is dropped.
        """
        kind, value, key, _, *rest = self.stack.pop()
        if kind == "module" and value is ModuleStub:
            self.stack.append(value)
            return

        if kind != "storage" or not isinstance(value, torch.dtype) or not isinstance(key, str):
            raise ValueError("a persistent id does not name a storage")
        if rest[1:] not in ([], [None]):
            raise ValueError("a storage is a part of another")
        self.storages.setdefault(key, value)
        self.stack.append(StorageRecord(value, key))

    def build(self, _: None) -> None:
        """Set a module's attributes; those of a dict, torch's versions of layers, are dropped."""
        state = self.stack.pop()
        target = self.stack[-1]
        if type(target) not in (ModuleStub, dict):
            raise ValueError(f"a {type(target).__name__} is given attributes")
        if type(target) is ModuleStub and isinstance(state, dict):
            target.attributes = state

    def mark(self, _: None) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def items(self) -> list[Any]:
        """Pop everything above the last mark."""
        items, self.stack = self.stack, self.marked.pop()
        return items

    def tuple_of_last(self, count: int) -> None:
        items = tuple(self.stack[-count:])
        del self.stack[-count:]
        self.stack.append(items)

    def extend_list(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise ValueError(f"a {type(self.stack[-1]).__name__} is extended as a list")
        self.stack[-1].extend(items)

    def update_dict(self, items: list[Any]) -> None:
        """Set the items with string keys.

        Attributes have no others, and keys of other types can be costly to hash.
        """
        if type(self.stack[-1]) is not dict:
            raise ValueError(f"a {type(self.stack[-1]).__name__} is updated as a dict")
        self.stack[-1].update(
            (k, v) for k, v in zip(items[::2], items[1::2], strict=True) if isinstance(k, str)
        )

    def remember(self, slot: int | None) -> None:
        self.memo[len(self.memo) if slot is None else slot] = self.stack[-1]

    def recall(self, slot: int) -> None:
        self.stack.append(self.memo[slot])


STEPS: dict[str, Callable[[TensorPickle, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda machine, _: None),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"), TensorPickle.literal),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE"), TensorPickle.literal),
    "NONE": lambda machine, _: machine.literal(None),
    "NEWTRUE": lambda machine, _: machine.literal(True),
    "NEWFALSE": lambda machine, _: machine.literal(False),
    "EMPTY_TUPLE": lambda machine, _: machine.literal(()),
    "EMPTY_LIST": lambda machine, _: machine.literal([]),
    "EMPTY_DICT": lambda machine, _: machine.literal({}),
    "MARK": TensorPickle.mark,
    "TUPLE": lambda machine, _: machine.literal(tuple(machine.items())),
    "TUPLE1": lambda machine, _: machine.tuple_of_last(1),
    "TUPLE2": lambda machine, _: machine.tuple_of_last(2),
    "TUPLE3": lambda machine, _: machine.tuple_of_last(3),
    "APPEND": lambda machine, _: machine.extend_list([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.extend_list(machine.items()),
    "SETITEM": lambda machine, _: machine.update_dict([machine.stack.pop(-2), machine.stack.pop()]),
    "SETITEMS": lambda machine, _: machine.update_dict(machine.items()),
    "GLOBAL": TensorPickle.named,
    "STACK_GLOBAL": TensorPickle.named_on_stack,
    "BINPERSID": TensorPickle.persistent,
    **dict.fromkeys(("REDUCE", "NEWOBJ"), TensorPickle.call),
    "BUILD": TensorPickle.build,
    **dict.fromkeys(("BINPUT", "LONG_BINPUT", "MEMOIZE"), TensorPickle.remember),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), TensorPickle.recall),
}
