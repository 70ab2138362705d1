from decentral.wire.v1 import messages_pb2 as _messages_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SessionFrames(_message.Message):
    __slots__ = ("frames",)
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    frames: _containers.RepeatedCompositeFieldContainer[SessionFrame]
    def __init__(self, frames: _Optional[_Iterable[_Union[SessionFrame, _Mapping]]] = ...) -> None: ...

class SessionFrame(_message.Message):
    __slots__ = ("conversation", "task", "output", "refused", "over", "commitment", "open", "reveal", "fetch", "proof", "challenge", "shown", "keys", "data")
    CONVERSATION_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    OVER_FIELD_NUMBER: _ClassVar[int]
    COMMITMENT_FIELD_NUMBER: _ClassVar[int]
    OPEN_FIELD_NUMBER: _ClassVar[int]
    REVEAL_FIELD_NUMBER: _ClassVar[int]
    FETCH_FIELD_NUMBER: _ClassVar[int]
    PROOF_FIELD_NUMBER: _ClassVar[int]
    CHALLENGE_FIELD_NUMBER: _ClassVar[int]
    SHOWN_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    conversation: int
    task: Task
    output: Output
    refused: _messages_pb2.Refused
    over: Over
    commitment: Commitment
    open: Open
    reveal: Reveal
    fetch: Fetch
    proof: Proof
    challenge: Challenge
    shown: Shown
    keys: Keys
    data: bytes
    def __init__(self, conversation: _Optional[int] = ..., task: _Optional[_Union[Task, _Mapping]] = ..., output: _Optional[_Union[Output, _Mapping]] = ..., refused: _Optional[_Union[_messages_pb2.Refused, _Mapping]] = ..., over: _Optional[_Union[Over, _Mapping]] = ..., commitment: _Optional[_Union[Commitment, _Mapping]] = ..., open: _Optional[_Union[Open, _Mapping]] = ..., reveal: _Optional[_Union[Reveal, _Mapping]] = ..., fetch: _Optional[_Union[Fetch, _Mapping]] = ..., proof: _Optional[_Union[Proof, _Mapping]] = ..., challenge: _Optional[_Union[Challenge, _Mapping]] = ..., shown: _Optional[_Union[Shown, _Mapping]] = ..., keys: _Optional[_Union[Keys, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class Task(_message.Message):
    __slots__ = ("part", "digest", "tensors", "question", "prove")
    PART_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    QUESTION_FIELD_NUMBER: _ClassVar[int]
    PROVE_FIELD_NUMBER: _ClassVar[int]
    part: str
    digest: bytes
    tensors: Tensors
    question: Question
    prove: Prove
    def __init__(self, part: _Optional[str] = ..., digest: _Optional[bytes] = ..., tensors: _Optional[_Union[Tensors, _Mapping]] = ..., question: _Optional[_Union[Question, _Mapping]] = ..., prove: _Optional[_Union[Prove, _Mapping]] = ...) -> None: ...

class Prove(_message.Message):
    __slots__ = ("srs",)
    SRS_FIELD_NUMBER: _ClassVar[int]
    srs: bool
    def __init__(self, srs: _Optional[bool] = ...) -> None: ...

class Question(_message.Message):
    __slots__ = ("task", "nonce", "epoch")
    TASK_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    task: bytes
    nonce: bytes
    epoch: int
    def __init__(self, task: _Optional[bytes] = ..., nonce: _Optional[bytes] = ..., epoch: _Optional[int] = ...) -> None: ...

class Commitment(_message.Message):
    __slots__ = ("digest",)
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    digest: bytes
    def __init__(self, digest: _Optional[bytes] = ...) -> None: ...

class Open(_message.Message):
    __slots__ = ("commitments",)
    COMMITMENTS_FIELD_NUMBER: _ClassVar[int]
    commitments: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, commitments: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Reveal(_message.Message):
    __slots__ = ("public_key", "output", "salt", "signature", "vouched")
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    SALT_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    VOUCHED_FIELD_NUMBER: _ClassVar[int]
    public_key: bytes
    output: bytes
    salt: bytes
    signature: bytes
    vouched: bytes
    def __init__(self, public_key: _Optional[bytes] = ..., output: _Optional[bytes] = ..., salt: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., vouched: _Optional[bytes] = ...) -> None: ...

class Fetch(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Output(_message.Message):
    __slots__ = ("tensors",)
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    tensors: Tensors
    def __init__(self, tensors: _Optional[_Union[Tensors, _Mapping]] = ...) -> None: ...

class Proof(_message.Message):
    __slots__ = ("total_bytes",)
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    total_bytes: int
    def __init__(self, total_bytes: _Optional[int] = ...) -> None: ...

class Challenge(_message.Message):
    __slots__ = ("nonce",)
    NONCE_FIELD_NUMBER: _ClassVar[int]
    nonce: bytes
    def __init__(self, nonce: _Optional[bytes] = ...) -> None: ...

class Shown(_message.Message):
    __slots__ = ("total_bytes",)
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    total_bytes: int
    def __init__(self, total_bytes: _Optional[int] = ...) -> None: ...

class Keys(_message.Message):
    __slots__ = ("sealed",)
    SEALED_FIELD_NUMBER: _ClassVar[int]
    sealed: bytes
    def __init__(self, sealed: _Optional[bytes] = ...) -> None: ...

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
