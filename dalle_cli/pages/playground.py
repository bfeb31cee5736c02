"""The page on which a model is tried: a form, and the pictures that come of it.

The server makes the form; the script asks for pictures and shows them as they come. What it shows
it adds as text, so that captions stay captions. All its addresses are relative: they lead below the
page's own, whatever token that begins with. Knows nothing of how pictures are generated.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from dalle_cli.pages import gallery as galleries
from dalle_cli.pages.document import Markup, document, element

STYLE = (
    galleries.STYLE
    + """
[hidden] { display: none !important }
form { display: grid; gap: .75rem } legend { font-size: .85rem; color: var(--faint) }
label { display: block; font-size: .85rem; color: var(--faint) }
.fields { display: grid; gap: .75rem; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)) }
input, select, button {
  font: inherit; width: 100%; min-height: 2.5rem; padding: .25rem .5rem; color: var(--ink);
  background: var(--ground); border: 1px solid var(--faint); border-radius: .25rem;
}
button { width: auto; padding: .25rem 1rem; cursor: pointer }
button:disabled { color: var(--faint); border-color: var(--line); cursor: default }
fieldset { min-width: 0; margin: 0; border: 1px solid var(--line); border-radius: .25rem }
progress { width: 100% } #status { min-height: 1.5em; margin: .5rem 0 }
.settings, .notes { margin: .25rem 0; font-size: .85rem; color: var(--faint) }
.notes { padding-left: 1.2rem } a { color: inherit } #preview { max-width: 9rem }
"""
)
SCRIPT = """
"use strict";
const form = document.querySelector("form");
const fields = form.elements;
const generateButton = document.querySelector("#generate");
const stopButton = document.querySelector("#stop");
const removeButton = document.querySelector("#remove");
const statusLine = document.querySelector("#status");
const bar = document.querySelector("progress");
const preview = document.querySelector("#preview");
const past = document.querySelector("#past");
const limits = { bytes: +form.dataset.maxBytes, jobs: +form.dataset.maxJobs };
const PAUSE = 300;

let current = null; // the job that is followed
let upload = Promise.resolve(null); // the picture to begin from, once the server has it

async function ask(path, options) {
  let answer, facts;
  try {
    answer = await fetch(path, options);
    facts = await answer.json();
  } catch {
    throw new Error("The server does not answer: is `dalle serve` still running?");
  }
  if (!answer.ok) throw new Error(facts.hint ? `${facts.error}: ${facts.hint}` : facts.error);
  return facts;
}

function post(path, body, type) {
  return ask(path, { method: "POST", headers: { "Content-Type": type }, body });
}

function postJson(path, facts) {
  return post(path, JSON.stringify(facts), "application/json");
}

function tell(text) {
  if (statusLine.textContent !== text) statusLine.textContent = text;
}

function node(name, properties, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function linkAgain(job, picture) {
  const wanted = new URLSearchParams({
    caption: job.caption,
    n: 1,
    first: picture.number,
    seed: job.seed,
    temperature: job.temperature,
    guidance: job.guidance,
  });
  if (job.image) {
    wanted.set("image", job.image);
    wanted.set("keep_rows", job.keep_rows);
  }
  return node("a", {
    className: "again",
    href: `?${wanted}`,
    textContent: "generate it again",
    ariaLabel: `generate it again: number ${picture.number}, seed ${job.seed}`,
  });
}

function figureOf(job, picture) {
  const image = node("img", { src: picture.file, alt: `${job.caption}, number ${picture.number}` });
  const words = node("figcaption", {}, node("span", {}), node("br", {}), linkAgain(job, picture));
  const figure = node("figure", {}, node("a", { href: picture.file }, image), words);
  figure.dataset.number = picture.number;
  return figure;
}

function pictureWords(job, picture) {
  const words = [`number ${picture.number}`, `seed ${job.seed}`];
  if (picture.score !== null) words.unshift(`score ${picture.score.toFixed(3)}`);
  return (picture.rank === null ? "" : `${picture.rank}. `) + words.join(" · ");
}

function settingsWords(job) {
  const words = [`seed ${job.seed}`, `temperature ${job.temperature}`, `guidance ${job.guidance}`];
  if (job.image) words.push(`from a picture, of which ${job.keep_rows} rows are kept`);
  if (job.rank) words.push(`ranked by ${job.rank}`);
  if (job.best) words.push(`the best ${job.best} of ${job.n}`);
  return words.join(" · ");
}

function statusWords(job) {
  const there = `${job.pictures.length} of ${job.n} pictures`;
  return {
    waiting: "Waiting for the model",
    running: `Generating: ${there}`,
    done: `Done: ${there}`,
    stopped: `Stopped: ${there}`,
    failed: job.problem,
  }[job.state];
}

function sectionOf(job) {
  const there = document.getElementById(`job-${job.id}`);
  if (there) return there;
  const section = node(
    "section",
    { id: `job-${job.id}` },
    node("h2", { textContent: job.caption }),
    node("p", { className: "settings", textContent: settingsWords(job) }),
    node("ul", { className: "notes" }),
    node("div", { className: "pictures" }),
  );
  past.prepend(section);
  while (past.children.length > limits.jobs) past.lastElementChild.remove();
  return section;
}

function show(job) {
  const section = sectionOf(job);
  const notes = job.problem ? [...job.warnings, job.problem] : job.warnings;
  const list = section.querySelector(".notes");
  list.replaceChildren(...notes.map((text) => node("li", { textContent: text })));
  list.hidden = !notes.length;

  const grid = section.querySelector(".pictures");
  const there = new Map([...grid.children].map((figure) => [+figure.dataset.number, figure]));
  const wanted = job.pictures.map((picture) => {
    const figure = there.get(picture.number) ?? figureOf(job, picture);
    figure.querySelector("span").textContent = pictureWords(job, picture);
    return figure;
  });
  const isShown = wanted.every((figure, i) => figure === grid.children[i]);
  if (isShown && wanted.length === grid.children.length) return;

  const focused = document.activeElement;
  grid.replaceChildren(...wanted);
  if (grid.contains(focused)) focused.focus({ preventScroll: true });
}

function setBusy(isBusy) {
  const [from, to] = isBusy ? [generateButton, stopButton] : [stopButton, generateButton];
  const wasFocused = document.activeElement === from;
  to.disabled = false;
  if (wasFocused) to.focus();
  from.disabled = true;
  bar.hidden = !isBusy;
}

async function follow(id) {
  current = id;
  setBusy(true);
  try {
    for (;;) {
      const job = await ask(`jobs/${id}`);
      show(job);
      tell(statusWords(job));
      bar.value = job.progress;
      if (job.is_over) break;
      await new Promise((resolve) => setTimeout(resolve, PAUSE));
    }
  } catch (error) {
    tell(error.message);
  }
  current = null;
  setBusy(false);
}

async function start() {
  if (current !== null) return;
  const wanted = { caption: fields.caption.value };
  for (const input of form.querySelectorAll(".fields input")) {
    if (input.value !== "") wanted[input.name] = Number(input.value);
  }
  if (fields.rank.value) wanted.rank = fields.rank.value;
  try {
    const image = await upload;
    if (image) Object.assign(wanted, { image, keep_rows: Number(fields.keep_rows.value) });
    follow((await postJson("jobs", wanted)).id);
  } catch (error) {
    tell(error.message);
  }
}

async function send(file) {
  if (file.size > limits.bytes) {
    throw new Error(`The picture is larger than ${limits.bytes / 2 ** 20} MiB`);
  }
  return (await post("uploads", file, "application/octet-stream")).id;
}

async function beginFrom(sent) {
  upload = sent;
  preview.hidden = removeButton.hidden = true;
  try {
    const id = await sent;
    if (upload !== sent || !id) return;
    preview.src = `uploads/${id}.png`;
    preview.hidden = false;
  } catch (error) {
    if (upload === sent) tell(error.message);
  }
  if (upload === sent) removeButton.hidden = false;
}

function fill(wanted) {
  form.reset();
  for (const [name, value] of wanted) {
    const field = fields.namedItem(name);
    if (field && field.type !== "file") field.value = value;
  }
  const image = wanted.get("image");
  beginFrom(Promise.resolve(/^[0-9a-f]+$/.test(image) ? image : null));
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  start();
});
stopButton.addEventListener("click", () => {
  postJson(`jobs/${current}/stop`, {}).catch((error) => tell(error.message));
});
fields.picture.addEventListener("change", () => {
  const [file] = fields.picture.files;
  beginFrom(file ? send(file) : Promise.resolve(null));
});
removeButton.addEventListener("click", () => {
  fields.picture.value = "";
  beginFrom(Promise.resolve(null));
  fields.picture.focus();
});
document.addEventListener("click", (event) => {
  const link = event.target.closest("a.again");
  if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  fill(new URLSearchParams(link.search));
  form.requestSubmit();
});

// a link that was opened elsewhere fills in the form, and leaves it to its reader to generate
if (location.search) fill(new URLSearchParams(location.search));
ask("jobs").then(
  ({ jobs }) => {
    jobs.forEach(show);
    const begun = jobs.find((job) => !job.is_over);
    if (begun) follow(begun.id);
  },
  (error) => tell(error.message),
);
"""


@dataclass(frozen=True)
class NumberField:
    """A number that the form asks for.

    value  to begin with; None: the field is empty, which stands for `note`
    """

    name: str
    label: str
    low: int
    high: int
    value: float | None
    note: str = ""
    is_whole: bool = True


def playground(
    model: str,
    *,
    side: int,
    caption_length: int,
    numbers: Sequence[NumberField],
    rankings: Iterable[tuple[str, str]],
    kept_rows: NumberField,
    examples: Sequence[str],
    max_bytes: int,
    max_jobs: int,
) -> str:
    """Return the page of a model.

    side       of its pictures, pixels
    rankings   what can rank pictures: names, and the words of the form
    kept_rows  of a picture to begin from
    examples   captions that it knows
    max_bytes  of an uploaded picture
    max_jobs   that the page keeps
    """
    caption = element(
        "input",
        name="caption",
        required=True,
        maxlength=caption_length,
        autocomplete="off",
        placeholder=examples[0] if examples else "",
    )
    options = [element("option", words, value=name) for name, words in rankings]
    ranking = element("select", element("option", "nothing", value=""), options, name="rank")
    form = element(
        "form",
        element("label", "Caption", caption),
        element(
            "div",
            [_number(field) for field in numbers],
            element("label", "Ranked by", ranking),
            class_="fields",
        ),
        _picture_fields(kept_rows),
        element("div", _button("generate", "Generate"), " ", _button("stop", "Stop")),
        data_max_bytes=max_bytes,
        data_max_jobs=max_jobs,
    )

    links = [[" · " if i else "", _example(caption)] for i, caption in enumerate(examples)]
    main = element(
        "main",
        element("h1", model),
        element("noscript", element("p", "This page needs JavaScript.")),
        form,
        element("p", "Try: ", links) if links else "",
        element("p", id="status", role="status"),
        element("progress", max=1, value=0, aria_label="share that is generated", hidden=True),
        element("div", id="past"),
        class_="small" if side < galleries.SMALL else "large",
    )
    return document(model, main, style=STYLE, script=SCRIPT, asks_its_server=True)


def _number(field: NumberField) -> Markup:
    box = element(
        "input",
        type="number",
        name=field.name,
        min=field.low,
        max=field.high,
        step=1 if field.is_whole else "any",
        value="" if field.value is None else f"{field.value:g}",
        placeholder=field.note,
    )
    return element("label", field.label, box)


def _picture_fields(kept_rows: NumberField) -> Markup:
    kinds = "image/png,image/jpeg,image/webp,image/gif"
    file = element("input", type="file", name="picture", accept=kinds)
    return element(
        "fieldset",
        element("legend", "Begin from a picture"),
        element("label", "Picture", file),
        _number(kept_rows),
        element("img", id="preview", alt="the picture to begin from", hidden=True),
        element("button", "Remove the picture", type="button", id="remove", hidden=True),
    )


def _button(name: str, words: str) -> Markup:
    is_first = name == "generate"
    kind = "submit" if is_first else "button"
    return element("button", words, type=kind, id=name, disabled=not is_first)


def _example(caption: str) -> Markup:
    return element("a", caption, class_="again", href=f"?{urlencode({'caption': caption})}")
