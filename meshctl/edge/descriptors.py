"""The contracts as the transcoder needs them: messages and paths, without what only our own code reads."""

from typing import Any

from google.api import annotations_pb2, http_pb2
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory


def for_transcoder(image: bytes) -> bytes:
    """Returns a descriptor set (`FileDescriptorSet`, serialized) without comments and without options of our own.

    For each response, the transcoder converts the descriptor of its message with all options, which is 4 % of a read.
    """
    # In a pool that knows no option but `google.api.http`, all others are unknown fields.
    pool = descriptor_pool.DescriptorPool()
    for module in (descriptor_pb2, http_pb2, annotations_pb2):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    kind = message_factory.GetMessageClass(
        pool.FindMessageTypeByName(descriptor_pb2.FileDescriptorSet.DESCRIPTOR.full_name)
    )
    files: Any = kind.FromString(image)
    files.DiscardUnknownFields()
    for file in files.file:
        file.ClearField("source_code_info")
    slim: bytes = files.SerializeToString(deterministic=True)
    return slim
