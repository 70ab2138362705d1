from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Refusal(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REFUSAL_UNSPECIFIED: _ClassVar[Refusal]
    REFUSAL_PROTOCOL_VERSION: _ClassVar[Refusal]
    REFUSAL_RECIPE: _ClassVar[Refusal]
    REFUSAL_SCHEMA: _ClassVar[Refusal]
    REFUSAL_TOO_LARGE: _ClassVar[Refusal]
    REFUSAL_MALFORMED: _ClassVar[Refusal]
    REFUSAL_DIGEST: _ClassVar[Refusal]
    REFUSAL_NOT_A_MEMBER: _ClassVar[Refusal]
    REFUSAL_SIGNATURE: _ClassVar[Refusal]
    REFUSAL_STALE: _ClassVar[Refusal]
    REFUSAL_BUSY: _ClassVar[Refusal]
    REFUSAL_TOKEN: _ClassVar[Refusal]
    REFUSAL_EXPIRED: _ClassVar[Refusal]
    REFUSAL_MODEL: _ClassVar[Refusal]
    REFUSAL_REVOKED: _ClassVar[Refusal]
    REFUSAL_DRAINING: _ClassVar[Refusal]
    REFUSAL_FULL: _ClassVar[Refusal]
    REFUSAL_ADDRESS: _ClassVar[Refusal]
    REFUSAL_CLOCK: _ClassVar[Refusal]

class MembershipStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MEMBERSHIP_STATUS_UNSPECIFIED: _ClassVar[MembershipStatus]
    MEMBERSHIP_STATUS_JOIN: _ClassVar[MembershipStatus]
    MEMBERSHIP_STATUS_LEAVE: _ClassVar[MembershipStatus]

class DataType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DATA_TYPE_UNSPECIFIED: _ClassVar[DataType]
    DATA_TYPE_FLOAT16: _ClassVar[DataType]
    DATA_TYPE_BFLOAT16: _ClassVar[DataType]
    DATA_TYPE_FLOAT32: _ClassVar[DataType]
    DATA_TYPE_FLOAT64: _ClassVar[DataType]
    DATA_TYPE_INT8: _ClassVar[DataType]
    DATA_TYPE_INT16: _ClassVar[DataType]
    DATA_TYPE_INT32: _ClassVar[DataType]
    DATA_TYPE_INT64: _ClassVar[DataType]
    DATA_TYPE_UINT8: _ClassVar[DataType]
    DATA_TYPE_BOOL: _ClassVar[DataType]
REFUSAL_UNSPECIFIED: Refusal
REFUSAL_PROTOCOL_VERSION: Refusal
REFUSAL_RECIPE: Refusal
REFUSAL_SCHEMA: Refusal
REFUSAL_TOO_LARGE: Refusal
REFUSAL_MALFORMED: Refusal
REFUSAL_DIGEST: Refusal
REFUSAL_NOT_A_MEMBER: Refusal
REFUSAL_SIGNATURE: Refusal
REFUSAL_STALE: Refusal
REFUSAL_BUSY: Refusal
REFUSAL_TOKEN: Refusal
REFUSAL_EXPIRED: Refusal
REFUSAL_MODEL: Refusal
REFUSAL_REVOKED: Refusal
REFUSAL_DRAINING: Refusal
REFUSAL_FULL: Refusal
REFUSAL_ADDRESS: Refusal
REFUSAL_CLOCK: Refusal
MEMBERSHIP_STATUS_UNSPECIFIED: MembershipStatus
MEMBERSHIP_STATUS_JOIN: MembershipStatus
MEMBERSHIP_STATUS_LEAVE: MembershipStatus
DATA_TYPE_UNSPECIFIED: DataType
DATA_TYPE_FLOAT16: DataType
DATA_TYPE_BFLOAT16: DataType
DATA_TYPE_FLOAT32: DataType
DATA_TYPE_FLOAT64: DataType
DATA_TYPE_INT8: DataType
DATA_TYPE_INT16: DataType
DATA_TYPE_INT32: DataType
DATA_TYPE_INT64: DataType
DATA_TYPE_UINT8: DataType
DATA_TYPE_BOOL: DataType

class Refused(_message.Message):
    __slots__ = ("reason", "detail")
    REASON_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    reason: Refusal
    detail: str
    def __init__(self, reason: _Optional[_Union[Refusal, str]] = ..., detail: _Optional[str] = ...) -> None: ...

class MembershipRecord(_message.Message):
    __slots__ = ("public_key", "status", "counter", "address", "first_round", "signature")
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    COUNTER_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    FIRST_ROUND_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    public_key: bytes
    status: MembershipStatus
    counter: int
    address: str
    first_round: int
    signature: bytes
    def __init__(self, public_key: _Optional[bytes] = ..., status: _Optional[_Union[MembershipStatus, str]] = ..., counter: _Optional[int] = ..., address: _Optional[str] = ..., first_round: _Optional[int] = ..., signature: _Optional[bytes] = ...) -> None: ...

class News(_message.Message):
    __slots__ = ("records", "seen", "ages", "recipe_hash")
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    SEEN_FIELD_NUMBER: _ClassVar[int]
    AGES_FIELD_NUMBER: _ClassVar[int]
    RECIPE_HASH_FIELD_NUMBER: _ClassVar[int]
    records: _containers.RepeatedCompositeFieldContainer[MembershipRecord]
    seen: bytes
    ages: bytes
    recipe_hash: str
    def __init__(self, records: _Optional[_Iterable[_Union[MembershipRecord, _Mapping]]] = ..., seen: _Optional[bytes] = ..., ages: _Optional[bytes] = ..., recipe_hash: _Optional[str] = ...) -> None: ...

class Join(_message.Message):
    __slots__ = ("protocol_version", "recipe_hash", "schema_hash", "record", "only_deliver")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    RECIPE_HASH_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_HASH_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    ONLY_DELIVER_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    recipe_hash: str
    schema_hash: str
    record: MembershipRecord
    only_deliver: bool
    def __init__(self, protocol_version: _Optional[int] = ..., recipe_hash: _Optional[str] = ..., schema_hash: _Optional[str] = ..., record: _Optional[_Union[MembershipRecord, _Mapping]] = ..., only_deliver: _Optional[bool] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("round", "records", "news")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    NEWS_FIELD_NUMBER: _ClassVar[int]
    round: int
    records: _containers.RepeatedCompositeFieldContainer[MembershipRecord]
    news: News
    def __init__(self, round: _Optional[int] = ..., records: _Optional[_Iterable[_Union[MembershipRecord, _Mapping]]] = ..., news: _Optional[_Union[News, _Mapping]] = ...) -> None: ...

class Ping(_message.Message):
    __slots__ = ("round", "only_deliver")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ONLY_DELIVER_FIELD_NUMBER: _ClassVar[int]
    round: int
    only_deliver: bool
    def __init__(self, round: _Optional[int] = ..., only_deliver: _Optional[bool] = ...) -> None: ...

class Pong(_message.Message):
    __slots__ = ("round", "synced")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    SYNCED_FIELD_NUMBER: _ClassVar[int]
    round: int
    synced: int
    def __init__(self, round: _Optional[int] = ..., synced: _Optional[int] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("round", "only_deliver")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ONLY_DELIVER_FIELD_NUMBER: _ClassVar[int]
    round: int
    only_deliver: bool
    def __init__(self, round: _Optional[int] = ..., only_deliver: _Optional[bool] = ...) -> None: ...

class Resend(_message.Message):
    __slots__ = ("round", "only_deliver")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ONLY_DELIVER_FIELD_NUMBER: _ClassVar[int]
    round: int
    only_deliver: bool
    def __init__(self, round: _Optional[int] = ..., only_deliver: _Optional[bool] = ...) -> None: ...

class Membership(_message.Message):
    __slots__ = ("records", "only_deliver")
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    ONLY_DELIVER_FIELD_NUMBER: _ClassVar[int]
    records: _containers.RepeatedCompositeFieldContainer[MembershipRecord]
    only_deliver: bool
    def __init__(self, records: _Optional[_Iterable[_Union[MembershipRecord, _Mapping]]] = ..., only_deliver: _Optional[bool] = ...) -> None: ...

class Leave(_message.Message):
    __slots__ = ("record", "only_deliver")
    RECORD_FIELD_NUMBER: _ClassVar[int]
    ONLY_DELIVER_FIELD_NUMBER: _ClassVar[int]
    record: MembershipRecord
    only_deliver: bool
    def __init__(self, record: _Optional[_Union[MembershipRecord, _Mapping]] = ..., only_deliver: _Optional[bool] = ...) -> None: ...

class TensorHeader(_message.Message):
    __slots__ = ("name", "dtype", "shape")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    dtype: DataType
    shape: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., dtype: _Optional[_Union[DataType, str]] = ..., shape: _Optional[_Iterable[int]] = ...) -> None: ...

class ModelHeader(_message.Message):
    __slots__ = ("round", "tag", "samples", "total_bytes", "tensors", "weight", "news")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    TAG_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    NEWS_FIELD_NUMBER: _ClassVar[int]
    round: int
    tag: str
    samples: int
    total_bytes: int
    tensors: _containers.RepeatedCompositeFieldContainer[TensorHeader]
    weight: float
    news: News
    def __init__(self, round: _Optional[int] = ..., tag: _Optional[str] = ..., samples: _Optional[int] = ..., total_bytes: _Optional[int] = ..., tensors: _Optional[_Iterable[_Union[TensorHeader, _Mapping]]] = ..., weight: _Optional[float] = ..., news: _Optional[_Union[News, _Mapping]] = ...) -> None: ...
