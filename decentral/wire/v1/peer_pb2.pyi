from decentral.wire.v1 import messages_pb2 as _messages_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Reply(_message.Message):
    __slots__ = ("welcome", "pong", "membership")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    PONG_FIELD_NUMBER: _ClassVar[int]
    MEMBERSHIP_FIELD_NUMBER: _ClassVar[int]
    welcome: _messages_pb2.Welcome
    pong: _messages_pb2.Pong
    membership: _messages_pb2.Membership
    def __init__(self, welcome: _Optional[_Union[_messages_pb2.Welcome, _Mapping]] = ..., pong: _Optional[_Union[_messages_pb2.Pong, _Mapping]] = ..., membership: _Optional[_Union[_messages_pb2.Membership, _Mapping]] = ...) -> None: ...
