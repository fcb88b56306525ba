"""Any order of layers gives what a model built with those layers gives; distances, likelihoods and
limits of the decoder.
"""

import math
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
sys.path.insert(0, str(Path(__file__).parent))  # tests are imported by path, not as packages

from tiny import N_LAYERS, Spelling, rebuilt, save, tiny_model  # noqa: E402 - after the path and the skips

from orchestrator.core.errors import PlanError  # noqa: E402
from orchestrator.studies.layers.decoder import FAMILIES, Decoder, angular_distances  # noqa: E402
from orchestrator.studies.layers.loading import load_decoder, shipped_order  # noqa: E402

pytestmark = pytest.mark.engine  # imports torch and five families

PROMPTS = [(1, 5, 9, 33, 20), (1, 5, 9, 33, 20, 40, 41), (1, 5, 7)]
STOCK = tuple(range(N_LAYERS))
CHANGED = (0, 2, 1, 2, 2, 3)  # one layer skipped first, then a repeat and a step back


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # tiny matrices gain nothing from more


def expected(model: object, prompt: tuple[int, ...], n: int) -> str:
    """What a stock model says greedily, everything recomputed at each token."""
    ids = list(prompt)
    with torch.inference_mode():
        for _ in range(n):
            ids.append(
                int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
            )  # type: ignore[operator]
            if ids[-1] == 2:
                break
    return Spelling().decode([id for id in ids[len(prompt) :] if id != 2])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_stock_order_is_the_stock_model_and_another_order_the_model_with_those_layers(
    family: str,
) -> None:
    """Batched, with a cache and a shared first part, against one prompt at a time without a cache:
    token for token.
    """
    model = tiny_model(family)
    decoder = Decoder(model, Spelling())
    for order in (STOCK, CHANGED):
        reference = rebuilt(model, order)
        assert [c.text for c in decoder.greedy(PROMPTS, order, 8)] == [
            expected(reference, prompt, 8) for prompt in PROMPTS
        ]
    assert [c.text for c in decoder.greedy(PROMPTS, STOCK, 8)] == [
        expected(model, prompt, 8) for prompt in PROMPTS
    ]


def test_prompts_that_share_nothing_are_padded_without_effect() -> None:
    prompts = [(7, 5, 9, 33), (9,), (11, 12)]
    decoder = Decoder(tiny_model(), Spelling())
    alone = [decoder.greedy([prompt], STOCK, 6)[0] for prompt in prompts]
    assert decoder.greedy(prompts, STOCK, 6) == alone


def test_layers_with_sliding_attention_keep_their_kind_wherever_they_stand() -> None:
    kinds = ["full_attention", "sliding_attention"] * 2
    model = tiny_model(
        "qwen2", layer_types=kinds, use_sliding_window=True, sliding_window=16, max_window_layers=0
    )
    decoder = Decoder(model, Spelling())
    order = (1, 0, 3, 3, 2)
    assert [c.text for c in decoder.greedy(PROMPTS, order, 6)] == [
        expected(rebuilt(model, order), prompt, 6) for prompt in PROMPTS
    ]
    with pytest.raises(PlanError, match="sliding window of 16"):
        decoder.greedy([tuple(range(3, 40))], order, 1)
    with pytest.raises(PlanError, match="one kind of attention"):
        decoder.damped_logprobs([(1, 5, 9)], (0,), (1, 2), (3,), 2)


def test_the_model_is_as_before_after_a_call_even_one_that_failed() -> None:
    model = tiny_model()
    decoder = Decoder(model, Spelling())
    with pytest.raises(PlanError, match="layers, 0 to 3"):
        decoder.greedy(PROMPTS, (0, 4), 4)
    with pytest.raises(IndexError):
        decoder.greedy([(1, 5), (1, 500)], CHANGED, 4)  # a token that the embedding does not have
    assert model.config.num_hidden_layers == len(model.model.layers) == N_LAYERS
    assert [c.text for c in decoder.greedy(PROMPTS, STOCK, 4)] == [
        expected(model, prompt, 4) for prompt in PROMPTS
    ]


def test_a_reply_ends_at_a_stop_text_which_is_left_out_or_at_the_limit() -> None:
    decoder = Decoder(tiny_model(), Spelling())
    [whole] = decoder.greedy(PROMPTS[:1], STOCK, 8)
    assert not whole.finished
    [cut] = decoder.greedy(PROMPTS[:1], STOCK, 8, stop=(whole.text[3:5],))
    at = whole.text.index(whole.text[3:5])
    assert (cut.text, cut.finished) == (whole.text[:at], True)


def test_drawn_replies_repeat_by_their_seed_and_vary_with_it() -> None:
    decoder = Decoder(tiny_model(), Spelling())
    one, again, other = (
        decoder.drawn(PROMPTS, STOCK, 8, temperature=1.0, seed=seed) for seed in (1, 1, 2)
    )
    assert one == again != other


def test_likelihoods_are_those_of_the_rebuilt_model() -> None:
    model = tiny_model()
    window = (1, 5, 9, 33, 20, 40)
    [found] = Decoder(model, Spelling()).token_logprobs([window], CHANGED)
    logits = rebuilt(model, CHANGED)(input_ids=torch.tensor([window])).logits[0].detach()
    by_hand = torch.log_softmax(logits, -1)[range(5), window[1:]].tolist()
    assert found == pytest.approx(by_hand, abs=1e-5)


def test_a_damped_loop_of_one_step_is_the_plain_order_and_of_more_another() -> None:
    decoder = Decoder(tiny_model(), Spelling())
    window = [(1, 5, 9, 33, 20, 40)]
    plain = decoder.token_logprobs(window, STOCK)
    once, twice = (decoder.damped_logprobs(window, (0,), (1, 2), (3,), n) for n in (1, 2))
    assert once[0] == pytest.approx(plain[0], abs=1e-5)
    assert twice[0] != pytest.approx(plain[0], abs=1e-2)


def test_two_damped_steps_by_hand() -> None:
    """x1 = x + (g(x) - x) / 2, x2 = x1 + (g(x1) - x1) / 2, with g the middle layers; the rest as in
    the stock model.
    """
    model = tiny_model()
    ids = torch.tensor([(1, 5, 9, 33, 20, 40)])
    base = model.model
    places = torch.arange(6)[None]
    with torch.inference_mode():
        x = base.embed_tokens(ids)
        context = {
            "position_embeddings": base.rotary_emb(x, position_ids=places),
            "position_ids": places,
        }

        def run(state: Any, *layers: int) -> Any:
            for layer in layers:
                state = base.layers[layer](state, **context)
            return state

        x = run(x, 0)
        for _ in range(2):
            x = x + (run(x, 1, 2) - x) / 2
        logits = model.lm_head(base.norm(run(x, 3)))[0, :-1]
    by_hand = torch.log_softmax(logits, -1).gather(-1, ids[0, 1:, None])[:, 0].tolist()
    [found] = Decoder(model, Spelling()).damped_logprobs(ids.tolist(), (0,), (1, 2), (3,), 2)
    assert found == pytest.approx(by_hand, abs=1e-5)


def test_streams_are_those_before_and_after_each_layer() -> None:
    """The last is the one before the final norm, which the model's own list of hidden states does
    not have.
    """
    model = tiny_model()
    streams = Decoder(model, Spelling()).streams((1, 5, 9))
    states = model(input_ids=torch.tensor([[1, 5, 9]]), output_hidden_states=True).hidden_states
    assert streams.shape == (N_LAYERS + 1, 3, 32)
    assert torch.allclose(streams[:-1], torch.cat(states[:-1]))
    assert torch.allclose(model.model.norm(streams[-1]), states[-1][0], atol=1e-5)


def test_angular_distance_by_hand() -> None:
    """A right angle is 1/2, opposite directions 1, one direction 0 whatever its length; a mean over
    tokens: (1/2 + 1/4) / 2.
    """
    streams = torch.tensor(
        [[[1.0, 0.0], [1.0, 0.0]], [[0.0, 3.0], [1.0, 1.0]], [[0.0, -1.0], [5.0, 5.0]]]
    )
    first, second = angular_distances(streams)
    assert math.isclose(first, (1 / 2 + 1 / 4) / 2, abs_tol=1e-9)
    assert math.isclose(second, (1 + 0) / 2, abs_tol=1e-7)


def test_a_folder_is_loaded_and_its_own_schedule_read(tmp_path: Path) -> None:
    folder = save(tiny_model(), tmp_path / "tiny")
    decoder = load_decoder(str(folder))
    assert decoder.n_layers == N_LAYERS
    assert shipped_order(str(folder), N_LAYERS) == STOCK
    config = folder / "config.json"
    config.write_text(
        config.read_text().rstrip().removesuffix("}")
        + ', "latent": {"layers": "0 (1-2)*r 3", "depth": 2}}'
    )
    assert shipped_order(str(folder), N_LAYERS) == (0, 1, 2, 1, 2, 3)


def test_a_family_that_is_not_covered_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(PlanError, match=r"family 'gpt2'.*covered: llama"):
        load_decoder(str(tmp_path))


def test_a_folder_without_weights_says_so(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(PlanError, match="cannot be loaded"):
        load_decoder(str(tmp_path))
