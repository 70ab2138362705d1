from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class InviteRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class InviteReply(_message.Message):
    __slots__ = ("nonce",)
    NONCE_FIELD_NUMBER: _ClassVar[int]
    nonce: bytes
    def __init__(self, nonce: _Optional[bytes] = ...) -> None: ...

class EnrolRequest(_message.Message):
    __slots__ = ("csr", "token", "certificate", "nonce", "evidence")
    CSR_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    csr: bytes
    token: bytes
    certificate: bytes
    nonce: bytes
    evidence: bytes
    def __init__(self, csr: _Optional[bytes] = ..., token: _Optional[bytes] = ..., certificate: _Optional[bytes] = ..., nonce: _Optional[bytes] = ..., evidence: _Optional[bytes] = ...) -> None: ...

class EnrolReply(_message.Message):
    __slots__ = ("certificate", "authorities")
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    AUTHORITIES_FIELD_NUMBER: _ClassVar[int]
    certificate: bytes
    authorities: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, certificate: _Optional[bytes] = ..., authorities: _Optional[_Iterable[bytes]] = ...) -> None: ...

class AnnounceRequest(_message.Message):
    __slots__ = ("sequence",)
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    def __init__(self, sequence: _Optional[int] = ...) -> None: ...

class AnnounceReply(_message.Message):
    __slots__ = ("notice",)
    NOTICE_FIELD_NUMBER: _ClassVar[int]
    notice: bytes
    def __init__(self, notice: _Optional[bytes] = ...) -> None: ...

class SignedNotice(_message.Message):
    __slots__ = ("notice", "signature")
    NOTICE_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    notice: bytes
    signature: bytes
    def __init__(self, notice: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class Notice(_message.Message):
    __slots__ = ("sequence", "time", "authorities", "renew", "refuse", "rulings")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    AUTHORITIES_FIELD_NUMBER: _ClassVar[int]
    RENEW_FIELD_NUMBER: _ClassVar[int]
    REFUSE_FIELD_NUMBER: _ClassVar[int]
    RULINGS_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    time: int
    authorities: _containers.RepeatedScalarFieldContainer[bytes]
    renew: int
    refuse: int
    rulings: _containers.RepeatedCompositeFieldContainer[Ruling]
    def __init__(self, sequence: _Optional[int] = ..., time: _Optional[int] = ..., authorities: _Optional[_Iterable[bytes]] = ..., renew: _Optional[int] = ..., refuse: _Optional[int] = ..., rulings: _Optional[_Iterable[_Union[Ruling, _Mapping]]] = ...) -> None: ...

class Ruling(_message.Message):
    __slots__ = ("peer", "renew", "refuse", "revoked", "reason")
    PEER_FIELD_NUMBER: _ClassVar[int]
    RENEW_FIELD_NUMBER: _ClassVar[int]
    REFUSE_FIELD_NUMBER: _ClassVar[int]
    REVOKED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    peer: str
    renew: int
    refuse: int
    revoked: int
    reason: str
    def __init__(self, peer: _Optional[str] = ..., renew: _Optional[int] = ..., refuse: _Optional[int] = ..., revoked: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...
