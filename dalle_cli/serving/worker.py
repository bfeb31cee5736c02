"""The thread that generates: one job after another.

It is the main thread of a command, where requests to stop are raised, and where torch has its
settings and its pool of threads.
"""

import math
import traceback

from dalle_cli.data.images import to_png
from dalle_cli.errors import DalleError
from dalle_cli.generation.text_to_image import GeneratedImage
from dalle_cli.serving.jobs import Job, JobPicture, JobQueue, JobStopped
from dalle_cli.serving.model import ServedModel

UNEXPECTED = "something unexpected has happened: see where `dalle serve` runs"


def generate_jobs(queue: JobQueue, model: ServedModel) -> None:
    """Generate one job after another, until something is raised in this thread from outside."""
    while True:
        generate_job(queue.next_job(), model)


def generate_job(job: Job, model: ServedModel) -> None:
    """Generate a job's pictures; whatever is wrong ends the job, and no other."""
    try:
        _generate(job, model)
    except JobStopped:
        job.end("stopped")
    except DalleError as error:
        job.end("failed", f"{error.message} ({error.hint})" if error.hint else error.message)
    except Exception:
        traceback.print_exc()
        job.end("failed", UNEXPECTED)


def _generate(job: Job, model: ServedModel) -> None:
    job.advance(0)
    prepared = model.prepare(job.request, job.image, job.advance)
    job.begin(prepared.warnings)

    images: list[GeneratedImage] = []
    for image in prepared.images():
        images.append(image)
        # JSON has no numbers that are not finite
        is_known = image.score is not None and math.isfinite(image.score)
        score = image.score if is_known else None
        job.add(JobPicture(image.number, score, None, to_png(image.image)))
    job.finish({image.number: image.rank for image in prepared.kept(images)})
