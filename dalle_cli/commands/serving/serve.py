"""`dalle serve`: a page to try a model on."""

import socket
from dataclasses import dataclass
from pathlib import Path

from dalle_cli.console import Terminal
from dalle_cli.errors import printable
from dalle_cli.generation.prompts import example_captions
from dalle_cli.generation.text_to_image import load_pipeline
from dalle_cli.runtime.devices import choose_device
from dalle_cli.runtime.threads import ThreadsByLoad
from dalle_cli.serving.access import Access, host_text
from dalle_cli.serving.http_server import PageServer, open_server
from dalle_cli.serving.jobs import JobQueue
from dalle_cli.serving.model import LoadedModel
from dalle_cli.serving.site import Site
from dalle_cli.serving.worker import generate_jobs
from dalle_cli.storage.run_dir import RunDir
from dalle_cli.storage.shipped import shipped_name


@dataclass(frozen=True)
class ServeOptions:
    """The command line of `serve`.

    clip  to rank by; None: the one that an export brings, if it does
    host  at whose address the server listens
    port  0: any free one
    """

    run: Path
    checkpoint: str | None
    clip: str | None
    host: str
    port: int
    device: str
    precision: str


def run_serve(options: ServeOptions, terminal: Terminal) -> None:
    """Serve a page that generates pictures with a model, until a request to stop."""
    with open_server(options.host, options.port) as server:
        terminal.say(f"loading {printable(str(options.run))}")
        ThreadsByLoad(choose_device(options.device), terminal.say).look()
        model = _load(options)
        access, queue = Access.to_address(server.address), JobQueue()

        with server.answering(Site(model, queue, access)):
            url = _url(server, access)
            terminal.result(url, {"url": url})
            if access.token:
                terminal.warn("whoever has this address can use the model over the network")
            terminal.say("Ctrl-C ends it, and forgets all pictures")
            generate_jobs(queue, model)


def _load(options: ServeOptions) -> LoadedModel:
    files = RunDir(options.run)
    text_to_image = load_pipeline(
        options.run,
        clip=options.clip or (options.run if files.clip.is_dir() else None),
        checkpoint=options.checkpoint,
        device=options.device,
        precision=options.precision,
    )
    name = shipped_name(options.run) or options.run.resolve().name
    examples = example_captions(options.run) if files.about.is_file() else []
    return LoadedModel(name, examples, text_to_image)


def _url(server: PageServer, access: Access) -> str:
    """Return the address of the page; of all interfaces' it is that of the machine's name."""
    is_everywhere = server.address in ("0.0.0.0", "::")
    host = socket.gethostname() if is_everywhere else host_text(server.address)
    return f"http://{host}:{server.port}{access.root}"
