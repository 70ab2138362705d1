from decentral.wire.v1 import messages_pb2 as _messages_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SessionFrame(_message.Message):
    __slots__ = ("conversation", "task", "output", "refused", "over", "data")
    CONVERSATION_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    OVER_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    conversation: int
    task: Task
    output: Output
    refused: _messages_pb2.Refused
    over: Over
    data: bytes
    def __init__(self, conversation: _Optional[int] = ..., task: _Optional[_Union[Task, _Mapping]] = ..., output: _Optional[_Union[Output, _Mapping]] = ..., refused: _Optional[_Union[_messages_pb2.Refused, _Mapping]] = ..., over: _Optional[_Union[Over, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class Task(_message.Message):
    __slots__ = ("part", "digest", "tensors")
    PART_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    part: str
    digest: bytes
    tensors: Tensors
    def __init__(self, part: _Optional[str] = ..., digest: _Optional[bytes] = ..., tensors: _Optional[_Union[Tensors, _Mapping]] = ...) -> None: ...

class Output(_message.Message):
    __slots__ = ("tensors",)
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    tensors: Tensors
    def __init__(self, tensors: _Optional[_Union[Tensors, _Mapping]] = ...) -> None: ...

class Over(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Tensors(_message.Message):
    __slots__ = ("headers", "total_bytes")
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    headers: _containers.RepeatedCompositeFieldContainer[_messages_pb2.TensorHeader]
    total_bytes: int
    def __init__(self, headers: _Optional[_Iterable[_Union[_messages_pb2.TensorHeader, _Mapping]]] = ..., total_bytes: _Optional[int] = ...) -> None: ...
