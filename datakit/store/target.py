"""Where a store is published to: a place behind a URL that takes files. S3 proves what it holds; others do not."""

from __future__ import annotations

import base64
import contextlib
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from datakit.errors import ConfigError, DatakitError, StoreError
from datakit.store.client import Client, Seen, status
from datakit.store.layout import File

PART = 16 << 20  # bytes of one request; larger files go up in parts
PARTS = 9000  # of a file, of the 10,000 that S3 takes
_DIGEST = "datakit-sha256"  # metadata of an object: goes with it, and is gone when it is overwritten


class Target(Protocol):
    """Paths are relative to the URL. Errors are those of `Client.attempt`."""

    def holds(self, file: File, seen: Seen) -> bool:
        """Whether these very bytes are there already, by something that no other write would leave as it is."""
        ...

    def put(self, file: File, source: Path) -> None:
        """Upload, and compare what came. Raises StoreError where `source` is not as written."""
        ...

    def put_text(self, path: str, data: bytes, replaces: str | None) -> bool:
        """Write a small object in one step; False where somebody was faster.

        replaces: the token of what it takes the place of; None: there must be nothing.
        """
        ...

    def remove(self, path: str) -> None:
        """Delete a file, if it is there."""
        ...

    def settle(self, paths: set[str]) -> None:
        """Let go of what broken uploads of these paths left."""
        ...


def target_of(client: Client) -> Target:
    if client.url.web:
        raise ConfigError(f"{client.url.name}: web servers take no uploads; publish to s3://, gs:// or hf://")
    return Bucket(client) if client.url.scheme == "s3" else Plain(client)


class Bucket:
    """S3, or what speaks like it. Every body goes with its MD5, which the server compares."""

    def __init__(self, client: Client) -> None:
        self._client = client
        bucket, _, self._prefix = client.url.base.partition("://")[2].partition("/")
        self._bucket = {"Bucket": bucket}

    def holds(self, file: File, seen: Seen) -> bool:
        if seen.size != file.bytes:
            return False
        try:
            found = self._call("head_object", file.path)
        except FileNotFoundError:
            return False
        kept: Mapping[str, str] = found.get("Metadata", {})
        return bool(found["ContentLength"] == file.bytes and kept.get(_DIGEST) == file.sha256)

    def put(self, file: File, source: Path) -> None:
        if file.bytes > PART:
            self._put_parts(file, source)
            return
        data = source.read_bytes()
        if hashlib.sha256(data).hexdigest() != file.sha256:
            raise _changed(source)
        self._sent(file.path, data, self._call("put_object", file.path, **_body(data), **_digest(file)))

    def _put_parts(self, file: File, source: Path) -> None:
        size = max(PART, -(-file.bytes // PARTS))
        upload = {"UploadId": self._call("create_multipart_upload", file.path, **_digest(file))["UploadId"]}
        try:
            parts: list[dict[str, Any]] = []
            digest = hashlib.sha256()
            with source.open("rb") as data:
                while part := data.read(size):
                    digest.update(part)
                    number = {"PartNumber": len(parts) + 1}
                    answer = self._call("upload_part", file.path, **_body(part), **number, **upload)
                    self._sent(file.path, part, answer)
                    parts.append({"ETag": answer["ETag"], **number})
            if digest.hexdigest() != file.sha256:
                raise _changed(source)
            self._complete(file, upload | {"MultipartUpload": {"Parts": parts}})
        except BaseException:
            # Parts cost as much as objects and no listing shows them.
            with contextlib.suppress(FileNotFoundError, DatakitError):
                self._call("abort_multipart_upload", file.path, **upload)
            raise

    def _complete(self, file: File, upload: dict[str, Any]) -> None:
        try:
            self._call("complete_multipart_upload", file.path, **upload)
        except FileNotFoundError:
            # No such upload: a try before this one completed it, and its answer was lost.
            if not self.holds(file, Seen(size=file.bytes)):
                raise

    def put_text(self, path: str, data: bytes, replaces: str | None) -> bool:
        condition = {"IfNoneMatch": "*"} if replaces is None else {"IfMatch": replaces}

        def once() -> bool:
            try:
                self._now("put_object", path, **_body(data), **condition)
                return True
            except OSError as problem:
                if isinstance(problem, FileExistsError | FileNotFoundError) or status(problem) == 412:
                    return False
                raise

        if self._client.attempt(path, once):
            return True
        # Refused, perhaps because an earlier try did it and its answer was lost.
        try:
            return self._client.read(path) == data
        except FileNotFoundError:
            return False

    def remove(self, path: str) -> None:
        self._call("delete_object", path)

    def settle(self, paths: set[str]) -> None:
        prefix = {"Prefix": f"{self._prefix}/" if self._prefix else ""}
        found = self._client.attempt(
            "", lambda: self._client.now("call_s3", "list_multipart_uploads", **self._bucket, **prefix)
        )
        for upload in found.get("Uploads", ()):
            path = upload["Key"].removeprefix(prefix["Prefix"])
            if path in paths:
                with contextlib.suppress(FileNotFoundError):  # gone by a try whose answer was lost
                    self._call("abort_multipart_upload", path, UploadId=upload["UploadId"])

    def _call(self, method: str, path: str, **keywords: Any) -> Any:
        return self._client.attempt(path, lambda: self._now(method, path, **keywords))

    def _now(self, method: str, path: str, **keywords: Any) -> Any:
        key = f"{self._prefix}/{path}" if self._prefix else path
        return self._client.now("call_s3", method, **self._bucket, Key=key, **keywords)

    def _sent(self, path: str, data: bytes, answer: Mapping[str, Any]) -> None:
        """Compare the ETag, which is the MD5 of a body but where keys of the owner's encrypt it."""
        kept_by_others = "SSECustomerAlgorithm" in answer or "kms" in answer.get("ServerSideEncryption", "")
        if not kept_by_others and answer["ETag"].strip('"') != _md5(data).hex():
            raise StoreError(f"{self._client.url.below(path).name}: other bytes arrived than were sent")


class Plain:
    """Anything else that fsspec writes to. It proves nothing, so everything is uploaded each time."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def holds(self, file: File, seen: Seen) -> bool:
        return False

    def put(self, file: File, source: Path) -> None:
        digest = hashlib.sha256()
        with source.open("rb") as data:
            while chunk := data.read(PART):
                digest.update(chunk)
        if digest.hexdigest() != file.sha256:
            raise _changed(source)
        place = self._client.url.at(file.path)
        self._client.attempt(file.path, lambda: self._client.now("put_file", str(source), place))
        if (size := self._client.look(file.path).size) != file.bytes:
            name = self._client.url.below(file.path).name
            raise StoreError(f"{name}: {size} bytes arrived of the {file.bytes} sent")

    def put_text(self, path: str, data: bytes, replaces: str | None) -> bool:
        if self._token(path) != replaces:
            return False
        place = self._client.url.at(path)
        self._client.attempt(path, lambda: self._client.now("pipe_file", place, data))
        return self._client.read(path) == data

    def _token(self, path: str) -> str | None:
        try:
            return self._client.look(path).token
        except FileNotFoundError:
            return None

    def remove(self, path: str) -> None:
        def once() -> None:
            try:
                self._client.now("rm_file", self._client.url.at(path))
            except FileNotFoundError:
                return

        self._client.attempt(path, once)

    def settle(self, paths: set[str]) -> None:
        """Nothing to do: what fsspec broke off is fsspec's."""


def _body(data: bytes) -> dict[str, Any]:
    return {"Body": data, "ContentMD5": base64.b64encode(_md5(data)).decode()}


def _digest(file: File) -> dict[str, Any]:
    return {"Metadata": {_DIGEST: file.sha256}}


def _md5(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()


def _changed(source: Path) -> StoreError:
    return StoreError(f"{source} is not as written: its sha256 is not the manifest's; build the store again")
