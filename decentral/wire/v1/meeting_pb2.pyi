from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class JoinerSays(_message.Message):
    __slots__ = ("knock", "ready")
    KNOCK_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    knock: Knock
    ready: Ready
    def __init__(self, knock: _Optional[_Union[Knock, _Mapping]] = ..., ready: _Optional[_Union[Ready, _Mapping]] = ...) -> None: ...

class Knock(_message.Message):
    __slots__ = ("protocol", "version", "csr", "token", "certificate", "address", "time")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CSR_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    version: str
    csr: bytes
    token: bytes
    certificate: bytes
    address: str
    time: float
    def __init__(self, protocol: _Optional[int] = ..., version: _Optional[str] = ..., csr: _Optional[bytes] = ..., token: _Optional[bytes] = ..., certificate: _Optional[bytes] = ..., address: _Optional[str] = ..., time: _Optional[float] = ...) -> None: ...

class Ready(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class HostSays(_message.Message):
    __slots__ = ("seat", "waiting", "agreed", "piece", "start")
    SEAT_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    AGREED_FIELD_NUMBER: _ClassVar[int]
    PIECE_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    seat: Seat
    waiting: Waiting
    agreed: Agreed
    piece: bytes
    start: Start
    def __init__(self, seat: _Optional[_Union[Seat, _Mapping]] = ..., waiting: _Optional[_Union[Waiting, _Mapping]] = ..., agreed: _Optional[_Union[Agreed, _Mapping]] = ..., piece: _Optional[bytes] = ..., start: _Optional[_Union[Start, _Mapping]] = ...) -> None: ...

class Seat(_message.Message):
    __slots__ = ("certificate", "index", "name", "address")
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    certificate: bytes
    index: int
    name: str
    address: str
    def __init__(self, certificate: _Optional[bytes] = ..., index: _Optional[int] = ..., name: _Optional[str] = ..., address: _Optional[str] = ...) -> None: ...

class Waiting(_message.Message):
    __slots__ = ("here", "ready", "seats")
    HERE_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    SEATS_FIELD_NUMBER: _ClassVar[int]
    here: int
    ready: int
    seats: int
    def __init__(self, here: _Optional[int] = ..., ready: _Optional[int] = ..., seats: _Optional[int] = ...) -> None: ...

class Agreed(_message.Message):
    __slots__ = ("recipe", "hash", "members", "epoch", "authority", "trust", "parts")
    RECIPE_FIELD_NUMBER: _ClassVar[int]
    HASH_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    AUTHORITY_FIELD_NUMBER: _ClassVar[int]
    TRUST_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    recipe: bytes
    hash: str
    members: _containers.RepeatedCompositeFieldContainer[Member]
    epoch: float
    authority: str
    trust: bytes
    parts: _containers.RepeatedCompositeFieldContainer[Part]
    def __init__(self, recipe: _Optional[bytes] = ..., hash: _Optional[str] = ..., members: _Optional[_Iterable[_Union[Member, _Mapping]]] = ..., epoch: _Optional[float] = ..., authority: _Optional[str] = ..., trust: _Optional[bytes] = ..., parts: _Optional[_Iterable[_Union[Part, _Mapping]]] = ...) -> None: ...

class Member(_message.Message):
    __slots__ = ("name", "id", "address")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    name: str
    id: str
    address: str
    def __init__(self, name: _Optional[str] = ..., id: _Optional[str] = ..., address: _Optional[str] = ...) -> None: ...

class Part(_message.Message):
    __slots__ = ("name", "size", "sha256")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    name: str
    size: int
    sha256: bytes
    def __init__(self, name: _Optional[str] = ..., size: _Optional[int] = ..., sha256: _Optional[bytes] = ...) -> None: ...

class Start(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
