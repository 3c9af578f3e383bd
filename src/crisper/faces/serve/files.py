"""The few files that pages load. Read once; their names are those that are there, and no other."""

from __future__ import annotations

from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response

from crisper.faces.serve.access import Needs
from crisper.faces.serve.doors import Door
from crisper.faces.serve.saying import Answered

_TYPES = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}


class Files:
    """They hold nothing of anybody's, and the page to sign in needs them: open to all."""

    def __init__(self) -> None:
        folder = files("crisper.faces.serve") / "static"
        self._files = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}

    def doors(self) -> list[Door]:
        return [Door("GET", "/static/{name}", Needs.NOTHING, self.file, "A file that pages load.")]

    async def file(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self._files:
            raise Answered(404, "not_found", "There is no such file.")
        headers = {"Cache-Control": "public, max-age=300"}
        return Response(self._files[name], headers=headers, media_type=_TYPES[name.rpartition(".")[2]])
