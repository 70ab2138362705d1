from decentral.wire.v1 import messages_pb2 as _messages_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ModelChunk(_message.Message):
    __slots__ = ("header", "data", "digest")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    header: _messages_pb2.ModelHeader
    data: bytes
    digest: bytes
    def __init__(self, header: _Optional[_Union[_messages_pb2.ModelHeader, _Mapping]] = ..., data: _Optional[bytes] = ..., digest: _Optional[bytes] = ...) -> None: ...

class PushReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
