"""compand run: a language model answers, on its codes; compand bench MODEL: how fast."""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from .console import note, put_json, short, size, size_of, usage


def add(app: typer.Typer) -> None:
    """Put the verb on the command line."""
    app.command()(run)


def run(
    model: Annotated[Path, typer.Argument(help="A .cpd file of a model, or a Hugging Face folder, coded or not.", show_default=False)],
    prompt: Annotated[str | None, typer.Option("-p", "--prompt", help="The text to go on from.  \\[default: standard input]",
                                               show_default=False)] = None,
    tokens: Annotated[int, typer.Option("-n", "--tokens", min=1, help="At most so many tokens.")] = 128,
    spec: Annotated[str | None, typer.Option(help="Code a model that is not coded yet while it is loaded, as int:4:group=64.",
                                             show_default=False)] = None,
    temperature: Annotated[float, typer.Option(min=0, max=100, help="0: the likeliest token each time.")] = 0.0,
    top_k: Annotated[int, typer.Option(min=0, help="Choose among the likeliest K; 0: all.")] = 0,
    top_p: Annotated[float, typer.Option(min=1e-6, max=1, help="Choose among the likeliest that have this probability together.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the choices.")] = 0,
    context: Annotated[int | None, typer.Option(min=1, help="Tokens of prompt and answer together.  \\[default: the model's, 4096 at most]",
                                                show_default=False)] = None,
    limit: Annotated[str | None, typer.Option("--memory", help="Bytes that all weights may take, as 120MB: of weights coded as sums of "
                                              "terms (compress --stack) those that are worth most are read.",
                                              show_default=False)] = None,
    threads: Annotated[int, typer.Option("-T", "--threads", min=0, help="Threads; 0: all.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print text and speed as JSON at the end.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Nothing but the text.")] = False,
) -> None:
    """Run a language model on its codes: text on standard output, speed and memory on standard error.

    Llama, Mistral, Qwen 2 and 3, Gemma 1 to 3; no torch. Weights that are codes are never decoded.

    [bold]compand run gemma.cpd --prompt "The capital of France is"[/]
    [bold]compand run gemma-3-270m/ --spec int:4:group=64 -p "Once upon a time" -n 50[/]
    [bold]compand run stack.cpd --memory 120MB -p "Once upon a time"[/]
    """
    from ..lm import Sampling, load
    from .compress import set_threads

    if prompt is None:
        if sys.stdin.isatty():
            raise usage("give --prompt TEXT, or pipe the text in")
        prompt = sys.stdin.read()
    set_threads(threads)
    sampling = Sampling(temperature, top_k, top_p, seed)
    begin, before = time.perf_counter(), memory()
    opened = load(model, spec=spec, context=context, memory=None if limit is None else size_of(limit))
    loaded = memory()
    if holds(model, "activations.cpd"):
        note("computes with the inputs of layers as they are; the file says how they are coded, which compand eval goes by", quiet)
    ids = opened.tokens(prompt)
    spelled = memory()
    if not ids:
        raise usage("the prompt is empty")
    ready = time.perf_counter()
    marks: list[float] = []

    def timed():
        for token in opened.generate(ids, most=tokens, sampling=sampling):
            marks.append(time.perf_counter())
            yield token

    pieces = []
    for piece in opened._text.pieces(timed()):
        pieces.append(piece)
        if not json:
            typer.echo(piece, nl=False)
            sys.stdout.flush()
    if not json:
        typer.echo()
    result: dict[str, Any] = {
        "model": str(model), "prompt_tokens": len(ids), "tokens": len(marks), "text": "".join(pieces), "bits": opened.bits,
        "bytes": opened.bytes, "cache_bytes": opened.cache_bytes, "load_seconds": ready - begin,
        "prompt_tok_s": len(ids) / (marks[0] - ready) if marks else None,
        "decode_tok_s": (len(marks) - 1) / (marks[-1] - marks[0]) if len(marks) > 1 else None}
    result |= _parts(before, loaded, spelled, memory())
    if json:
        put_json(result)
        return
    note(f"{short(result['decode_tok_s'])} tokens/s ({len(marks)} tokens), prompt {short(result['prompt_tok_s'])} tokens/s ({len(ids)}); "
         f"weights {size(opened.bytes)} ({short(opened.bits)} bits each), keys and values {size(opened.cache_bytes)}, "
         f"most memory {size(result['peak_bytes'])}{_told(result)}, loaded in {short(ready - begin)} s", quiet)


def peak() -> int:
    """The most memory this process had: bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def memory() -> tuple[int, int] | None:
    """Bytes of this process that are its own, and those of files in its maps; None where the system does not say (Linux does)."""
    try:
        with open("/proc/self/status") as lines:
            found = dict(line.split(":", 1) for line in lines)
        own, mapped = (1024 * int(found[name].split()[0]) for name in ("RssAnon", "RssFile"))
        return own, mapped
    except (OSError, KeyError, ValueError, IndexError):
        return None


def _parts(before, loaded, spelled, last) -> dict[str, int]:
    """What of the memory is whose."""
    found = {"peak_bytes": peak()}
    if before and loaded and spelled and last:
        found |= {"mapped_bytes": last[1], "own_bytes": last[0], "own_program_bytes": before[0],
                  "own_model_bytes": max(loaded[0] - before[0], 0), "own_tokenizer_bytes": max(spelled[0] - loaded[0], 0)}
    return found


def _told(result: dict[str, Any]) -> str:
    if "own_bytes" not in result:
        return ""
    own = ", ".join(f"{size(result[f'own_{name}_bytes'])} the {name}" for name in ("program", "model", "tokenizer"))
    return f": {size(result['mapped_bytes'])} of mapped files, {size(result['own_bytes'])} its own ({own})"


def is_model(path: Path) -> bool:
    """Whether a path is a language model: a folder with config.json, or a .cpd file of one."""
    return (path.is_dir() or path.suffix == ".cpd") and holds(path, "config.json")


def holds(path: Path, name: str) -> bool:
    """Whether a folder or a .cpd file has a file of this name."""
    from .. import open as open_file
    from ..errors import CompandError

    if path.is_dir():
        return (path / name).is_file()
    try:
        with open_file(path) as file:
            return name in file
    except (CompandError, OSError):
        return False


def speed(model: Path, peer: str | None, spec: str | None, *, json: bool, quiet: bool) -> None:
    """Measure how fast a model runs; see `compand bench`."""
    from ..lm import load, peers
    from ..lm.speed import measure

    opened, others = load(model, spec=spec), {}
    if peer is not None and peer.endswith(".gguf"):
        others = {"peer_prompt_tok_s": peers.llama_rate(peer, prompt=64), "peer_decode_tok_s": peers.llama_rate(peer)}
    elif peer is not None:
        folder = Path(peer)
        if not folder.is_dir():
            raise usage("--peer is a Hugging Face folder, run by transformers in bfloat16, or a .gguf file, run by llama-bench")
        others = {"peer_decode_tok_s": peers.transformers_rate(folder)}
    result = {"model": str(model), "peer": peer, **measure(opened, others=others), "peak_bytes": peak()}
    if json:
        put_json(result)
        return
    typer.echo(f"{model.name}: {size(result['bytes'])} of weights, {short(result['bits'])} bits each, {result['threads']} threads\n"
               f"decode  {short(result['decode_tok_s'])} tokens/s: {short(result['gweights_s'])} Gweights/s, {short(result['gb_s'])} GB/s, "
               f"{result['of_read']:.0%} of the {short(result['read_gb_s'])} that memory gives\n"
               f"prompt  {short(result['prompt_tok_s'])} tokens/s ({result['prompt_tokens']} tokens)")
    for name in others:
        kind = "decode" if "decode" in name else "prompt"
        typer.echo(f"peer    {kind} {short(result[name])} tokens/s: {short(result[f'{kind}_tok_s'] / result[name])} times its speed here")
