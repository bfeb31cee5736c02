"""The addresses of the server: the page, its jobs, their pictures, and what is uploaded.

Knows nothing of sockets; a request comes as its method, target, headers and a way to read its body.
"""

import json
import re
from collections.abc import Callable
from email.message import Message
from http import HTTPStatus
from typing import Any

from dalle_cli.errors import UsageError
from dalle_cli.pages.playground import playground
from dalle_cli.serving.access import Access
from dalle_cli.serving.answers import HTML, PNG, Answer, Refusal, json_answer
from dalle_cli.serving.jobs import MAX_JOBS, Job, JobQueue, QueueFull
from dalle_cli.serving.model import ServedModel
from dalle_cli.serving.picture_request import (
    MAX_CAPTION,
    RANKINGS,
    kept_rows_field,
    number_fields,
    read_request,
)
from dalle_cli.serving.uploads import MAX_BYTES, UploadShelf

MAX_JSON = 16 * 2**10  # bytes
RETRY_SECONDS = "5"
GONE = "this is not kept any more"
# neither kind can be posted by another site's form
JSON_KIND, UPLOAD_KIND = "application/json", "application/octet-stream"

ReadBody = Callable[[int], bytes]  # of at most so many bytes; raises Refusal


class Site:
    """Answers requests about a model, from several threads at the same time."""

    def __init__(self, model: ServedModel, queue: JobQueue, access: Access) -> None:
        self._model = model
        self._queue = queue
        self._access = access
        self._uploads = UploadShelf(model.image_size)
        self._page = _page_of(model).encode()
        self._routes: list[tuple[str, str, Callable[..., Answer]]] = [
            ("GET", "", self._show_page),
            ("GET", "jobs", self._list_jobs),
            ("POST", "jobs", self._submit_job),
            ("GET", r"jobs/(\d{1,9})", self._show_job),
            ("POST", r"jobs/(\d{1,9})/stop", self._stop_job),
            ("GET", r"pictures/(\d{1,9})-(\d{1,9})\.png", self._show_picture),
            ("POST", "uploads", self._keep_upload),
            ("GET", r"uploads/([0-9a-f]{1,64})\.png", self._show_upload),
        ]

    def answer(self, method: str, target: str, headers: Message, read_body: ReadBody) -> Answer:
        """Answer a request, or say why not."""
        try:
            path = self._access.check(method, target, headers)
            return self._find_route(method, path)(headers, read_body)
        except Refusal as refusal:
            return refusal.answer
        except UsageError as error:
            return Refusal(HTTPStatus.BAD_REQUEST, error.message, error.hint).answer
        except QueueFull as error:
            later = {"Retry-After": RETRY_SECONDS}
            status = HTTPStatus.SERVICE_UNAVAILABLE
            return Refusal(status, error.message, error.hint, headers=later).answer

    def _find_route(self, method: str, path: str) -> Callable[[Message, ReadBody], Answer]:
        matching = [
            (allowed, function, match.groups())
            for allowed, pattern, function in self._routes
            if (match := re.fullmatch(pattern, path, re.ASCII))
        ]
        for allowed, function, groups in matching:
            if allowed == method:
                return lambda headers, read_body: function(headers, read_body, *groups)

        if not matching:
            raise Refusal(HTTPStatus.NOT_FOUND, "there is no such page")
        methods = {"Allow": ", ".join(allowed for allowed, _, _ in matching)}
        raise Refusal(HTTPStatus.METHOD_NOT_ALLOWED, "not with this method", headers=methods)

    def _show_page(self, headers: Message, read_body: ReadBody) -> Answer:
        return Answer(self._page, HTML)

    def _list_jobs(self, headers: Message, read_body: ReadBody) -> Answer:
        return json_answer({"jobs": [job.facts() for job in self._queue.all_jobs()]})

    def _submit_job(self, headers: Message, read_body: ReadBody) -> Answer:
        facts = _read_json(headers, read_body)
        request = read_request(
            facts,
            rankings=self._model.rankings,
            grid_size=self._model.grid_size,
            advice=self._model.advice,
        )

        image = None
        if request.image is not None:
            upload = self._uploads.find(request.image)
            if upload is None:
                raise UsageError(
                    "the picture to begin from is not kept any more", "choose it again"
                )
            image = upload.image
        job = self._queue.submit(request, image)
        return json_answer(job.facts(), HTTPStatus.ACCEPTED)

    def _show_job(self, headers: Message, read_body: ReadBody, number: str) -> Answer:
        return json_answer(self._job(number).look())

    def _stop_job(self, headers: Message, read_body: ReadBody, number: str) -> Answer:
        _read_json(headers, read_body)
        job = self._job(number)
        job.stop()
        return json_answer(job.facts())

    def _show_picture(self, headers: Message, read_body: ReadBody, job: str, number: str) -> Answer:
        picture = self._job(job).find_picture(int(number))
        if picture is None:
            raise Refusal(HTTPStatus.NOT_FOUND, GONE)
        return Answer(picture.content, PNG)

    def _keep_upload(self, headers: Message, read_body: ReadBody) -> Answer:
        _check_kind(headers, UPLOAD_KIND)
        key = self._uploads.add(read_body(MAX_BYTES))
        return json_answer({"id": key}, HTTPStatus.CREATED)

    def _show_upload(self, headers: Message, read_body: ReadBody, key: str) -> Answer:
        upload = self._uploads.find(key)
        if upload is None:
            raise Refusal(HTTPStatus.NOT_FOUND, GONE)
        return Answer(upload.content, PNG)

    def _job(self, number: str) -> Job:
        job = self._queue.find_job(int(number))
        if job is None:
            raise Refusal(HTTPStatus.NOT_FOUND, GONE)
        return job


def _page_of(model: ServedModel) -> str:
    return playground(
        model.name,
        side=model.image_size,
        caption_length=MAX_CAPTION,
        numbers=number_fields(model.advice),
        rankings=[(name, RANKINGS[name]) for name in model.rankings],
        kept_rows=kept_rows_field(model.grid_size),
        examples=model.examples,
        max_bytes=MAX_BYTES,
        max_jobs=MAX_JOBS,
    )


def _read_json(headers: Message, read_body: ReadBody) -> Any:
    _check_kind(headers, JSON_KIND)
    try:
        return json.loads(read_body(MAX_JSON))
    except (ValueError, RecursionError):
        raise Refusal(HTTPStatus.BAD_REQUEST, "the request is not JSON") from None


def _check_kind(headers: Message, kind: str) -> None:
    if headers.get_content_type() != kind:
        message = f"the content of this request must be {kind}"
        raise Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, message)
