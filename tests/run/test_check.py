"""What only several keys together can get wrong: rules that need more models, attacks that nobody can do."""

from __future__ import annotations

from pathlib import Path

import pytest

from decentral.algorithms.catalogue import NO_AGGREGATE
from decentral.core.attacks import ATTACKS
from decentral.core.encodings import ENCODINGS
from decentral.core.rules import RULES
from decentral.errors import RecipeError
from decentral.run.recipe import Attack, Choice, Recipe, load_recipe

PEERS = "algorithm: dpsgd\ntopology: full\npeers: 10\n"


@pytest.fixture
def write(tmp_path: Path):
    def written(text: str) -> Path:
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        return path

    return written


# ---- averaging.rule -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["dpsgd", "fedavg", "modest"])
@pytest.mark.parametrize("name", RULES.names())
def test_every_rule_goes_with_every_algorithm_that_averages_enough_models(write, algorithm: str, name: str) -> None:
    path = write(PEERS)
    assert load_recipe(path, [f"algorithm={algorithm}", f"averaging.rule={name}"]).averaging.rule == Choice(name=name)


def test_a_rule_is_refined_by_its_options(write) -> None:
    path = write(PEERS + "averaging: {rule: {name: trimmed-mean, cut: 0.1}}\n")
    assert load_recipe(path, ["averaging.rule.cut=0.3"]).averaging.rule.options == {"cut": 0.3}
    assert load_recipe(path, ["averaging.rule=mean"]).averaging.rule == Choice(name="mean")


@pytest.mark.parametrize(
    ("text", "key", "problem"),
    [
        (
            "rule: {name: trimmed-mean, cut: 0.6}",
            "averaging.rule",
            "cut must be greater than 0 and less than 0.5, not 0.6",
        ),
        ("rule: {name: trimmed-mean, cut: half}", "averaging.rule.cut", "a number is needed, not 'half'"),
        ("rule: {name: krum, byzantine: two}", "averaging.rule.byzantine", "a whole number is needed, not 'two'"),
        ("rule: {name: krum, byzantine: -1}", "averaging.rule", "byzantine must be at least 0"),
        ("rule: {name: krum, byzantine: 4}", "averaging.rule", "'krum' needs 11 models or more .* averages 10"),
        ("rule: {name: multi-krum, byzantine: 2, keep: 7}", "averaging.rule", "needs 11 models or more"),
        ("rule: {name: norm-clipping, bound: 0}", "averaging.rule", "bound must be greater than 0"),
        ("rule: {name: median, cut: 0.1}", "averaging.rule.cut", "it has no options"),
    ],
)
def test_a_rule_that_cannot_be_is_named_with_its_key_and_line(write, text: str, key: str, problem: str) -> None:
    path = write(f"{PEERS}averaging:\n  {text}\n")
    for name in RULES.names():  # of a rule that inherits its constructor, the source does not tell the options
        RULES.resolve(name)
    with pytest.raises(RecipeError, match=problem) as caught:
        load_recipe(path)
    assert (caught.value.key, caught.value.file, caught.value.line) == (key, str(path), 5)


def test_an_absent_option_may_be_null(write) -> None:
    assert load_recipe(write(PEERS), ["averaging.rule={name: krum, byzantine: null}"])


@pytest.mark.parametrize("algorithm", ["sgp", "gradient-tracking", "dimat"])
def test_a_robust_rule_is_refused_where_sums_must_be_kept(write, algorithm: str) -> None:
    path = write(PEERS + "averaging: {rule: median}\n")
    with pytest.raises(RecipeError, match=f"averaging.rule: 'median' does not go with algorithm '{algorithm}'"):
        load_recipe(path, [f"algorithm={algorithm}"])
    assert load_recipe(path, [f"algorithm={algorithm}", "averaging.rule=mean"])


@pytest.mark.parametrize(
    ("settings", "models"),
    [
        (["topology=ring", "averaging.rule={name: krum, byzantine: 1}"], 3),
        (["topology=star", "averaging.rule=median"], 2),
        (["topology={name: regular, degree: 4}", "averaging.rule={name: krum, byzantine: 2}"], 5),
        (["peers=2", "averaging.rule=median"], 2),
        (["algorithm=fedavg", "peers=4", "averaging.rule={name: krum, byzantine: 1}"], 4),
        (["algorithm=modest", "sampling.size=4", "averaging.rule={name: krum, byzantine: 1}"], 4),
        (["algorithm=modest", "sampling={size: 4, success: 0.5}", "averaging.rule=median"], 2),
        (["algorithm=gossip", "averaging.rule=median"], 2),
        (["algorithm=gossip", "averaging.rule=norm-clipping"], 2),
        (["algorithm=fedavg", "fedavg.clients=2", "averaging.rule=median"], 2),
        (["algorithm=epidemic", "epidemic.fanout=4", "averaging.rule=median"], 1),
        (["algorithm=epidemic", "epidemic={fanout: 1, regular: true}", "averaging.rule=median"], 2),
    ],
)
def test_a_rule_needs_enough_models_in_the_smallest_average(write, settings: list[str], models: int) -> None:
    with pytest.raises(RecipeError, match=f"averaging.rule: .* averages {models}$"):
        load_recipe(write(PEERS), settings)


def test_of_two_models_clipping_with_a_bound_still_bounds(write) -> None:
    assert load_recipe(write(PEERS), ["algorithm=gossip", "averaging.rule={name: norm-clipping, bound: 1.0}"])


# ---- attack ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ATTACKS.names())
def test_every_attack_can_be_asked_for(write, name: str) -> None:
    recipe = load_recipe(write(PEERS), [f"attack={{name: {name}, peers: [3, 7]}}"])
    assert recipe.attackers == (3, 7)
    assert recipe.attack == Attack(name=name, peers=(3, 7))


def test_an_attack_has_options_of_its_own_beside_who_and_when(write) -> None:
    path = write(PEERS + "attack: {name: sign-flip, peers: 0.2, from_round: 3, scale: 4}\n")
    recipe = load_recipe(path, ["attack.scale=5.0", "attack.peers=[1]"])
    assert recipe.attack is not None
    assert (recipe.attack.from_round, recipe.attack.options, recipe.attackers) == (3, {"scale": 5.0}, (1,))
    assert Recipe.model_validate(recipe.model_dump()) == recipe
    assert load_recipe(path, ["attack=null"]).attackers == ()


@pytest.mark.parametrize(
    ("text", "key", "problem"),
    [
        ("{name: sign-flip}", "attack.peers", "field required"),
        ("{peers: 0.2}", "attack", "must have a name"),
        ("sign-flip", "attack.peers", "field required"),
        ("{name: sign-flip, peers: two}", "attack.peers", "a share of the peers, such as 0.2, or a list"),
        ("{name: sign-flip, peers: [0.5]}", "attack.peers", "or a list of their indices"),
        ("{name: sign-flip, peers: [true]}", "attack.peers", "or a list of their indices"),
        ("{name: sign-flip, peers: 3}", "attack.peers", "or a list of their indices, not 3"),
        ("{name: sign-flip, peers: [10]}", "attack.peers", "there is no peer 10"),
        ("{name: sign-flip, peers: [3, 3]}", "attack.peers", "named once"),
        ("{name: sign-flip, peers: 0.01}", "attack.peers", "is 0 of 10 peers"),
        ("{name: sign-flip, peers: 1.0}", "attack.peers", "somebody must be honest"),
        ("{name: sign-flip, peers: 0.2, from_round: 0}", "attack.from_round", "at least 1"),
        ("{name: sign-flip, peers: 0.2, scal: 2}", "attack.scal", "did you mean 'scale'"),
        ("{name: sign-flip, peers: 0.2, scale: big}", "attack.scale", "a number is needed"),
        ("{name: sign-flip, peers: 0.2, scale: -1}", "attack", "scale must be greater than 0"),
        ("{name: label-flip, peers: 0.2, from_round: 2}", "attack.from_round", "is in the data"),
    ],
)
def test_an_attack_that_cannot_be_is_named_with_its_key_and_line(write, text: str, key: str, problem: str) -> None:
    path = write(f"{PEERS}attack: {text}\n")
    with pytest.raises(RecipeError, match=problem) as caught:
        load_recipe(path)
    assert (caught.value.key, caught.value.file, caught.value.line) == (key, str(path), 4)


def test_an_attack_that_listens_needs_models_to_hear(write) -> None:
    for algorithm in ("fedavg", "isolated"):
        with pytest.raises(RecipeError, match=rf"attack\.name: 'alie' needs the models of others.*'{algorithm}'"):
            load_recipe(write(PEERS), [f"algorithm={algorithm}", "attack={name: alie, peers: [3]}"])


def test_the_peer_that_averages_for_all_cannot_be_told_to_attack(write) -> None:
    path = write(PEERS.replace("dpsgd", "fedavg"))
    with pytest.raises(RecipeError, match=r"attack\.peers: peer 0 averages for all the others"):
        load_recipe(path, ["attack={name: sign-flip, peers: [0]}"])
    for seed in range(20):
        assert 0 not in load_recipe(path, [f"seed={seed}", "attack={name: sign-flip, peers: 0.9}"]).attackers


# ---- sampling -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "key", "problem"),
    [
        ("{size: 11}", "sampling.size", "11 is more than the 10 peers of the run"),
        ("{size: 4, aggregators: 5}", "sampling.aggregators", "5 is more than the 4 participants of a round"),
        ("{size: 4, success: 0.5, floor: 3}", "sampling.floor", "3 is more than the 2 models that an aggregator waits"),
        ("{success: 0}", "sampling.success", "greater than 0"),
        ("{success: 1.5}", "sampling.success", "at most 1"),
    ],
)
def test_an_impossible_sample_is_named_with_its_key_and_line(write, values: str, key: str, problem: str) -> None:
    path = write(f"{PEERS}sampling: {values}\n")
    with pytest.raises(RecipeError, match=problem) as caught:
        load_recipe(path, ["algorithm=modest"])
    assert (caught.value.key, caught.value.file) == (key, str(path))
    assert caught.value.line is not None


def test_samples_are_not_asked_of_algorithms_that_draw_none(write) -> None:
    assert load_recipe(write(PEERS), ["sampling.size=11"]).sampling.size == 11


# ---- epidemic -------------------------------------------------------------------------------------------------------


def test_nobody_can_send_to_more_peers_than_there_are(write) -> None:
    path = write(f"{PEERS}epidemic: {{fanout: 10}}\n")
    with pytest.raises(RecipeError, match=r"epidemic\.fanout: 10 is more than the 9 other peers"):
        load_recipe(path, ["algorithm=epidemic"])
    assert load_recipe(path, ["algorithm=epidemic", "epidemic.fanout=9"])
    assert load_recipe(path).epidemic.fanout == 10, "read by that algorithm alone"


@pytest.mark.parametrize(
    ("values", "key", "problem"),
    [("{fanout: 0}", "epidemic.fanout", "at least 1"), ("{fanuot: 2}", "epidemic.fanuot", "did you mean 'fanout'")],
)
def test_an_impossible_epidemic_is_named(write, values: str, key: str, problem: str) -> None:
    with pytest.raises(RecipeError, match=problem) as caught:
        load_recipe(write(f"{PEERS}epidemic: {values}\n"), ["algorithm=epidemic"])
    assert caught.value.key == key


# ---- fedavg ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("clients", "problem"), [("11", "the 10 peers of the run"), ("0", "at least 1"), ("-3", "at least 1")]
)
def test_an_impossible_number_of_clients_is_named_with_its_key_and_line(write, clients: str, problem: str) -> None:
    with pytest.raises(RecipeError, match=problem) as caught:
        load_recipe(write(f"{PEERS}fedavg: {{clients: {clients}}}\n"), ["algorithm=fedavg"])
    assert (caught.value.key, caught.value.line) == ("fedavg.clients", 4)


# ---- exchange.compression and averaging.outer ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ENCODINGS.names())
@pytest.mark.parametrize("algorithm", ["dpsgd", "fedavg", "gossip", "epidemic", "modest", "isolated"])
def test_every_compression_goes_with_every_algorithm_that_averages_what_it_reads(write, algorithm, name) -> None:
    recipe = load_recipe(write(PEERS), [f"algorithm={algorithm}", f"exchange.compression={name}"])
    assert recipe.exchange.compression == Choice(name=name)
    plain = load_recipe(write(PEERS), [f"algorithm={algorithm}"])
    assert (recipe.hash == plain.hash) == (name == "none"), "peers that write differently do not meet"


def test_models_that_have_to_be_whole_can_be_rounded(write) -> None:
    for name in ("bfloat16", "int8"):
        assert load_recipe(write(PEERS), ["algorithm=dimat", f"exchange.compression={name}"])
    with pytest.raises(RecipeError, match="'top-k' does not go with algorithm 'dimat': units are matched") as caught:
        load_recipe(write(PEERS), ["algorithm=dimat", "exchange.compression=top-k"])
    assert caught.value.key == "exchange.compression"


@pytest.mark.parametrize("algorithm", ["sgp", "gradient-tracking"])
@pytest.mark.parametrize("name", [name for name in ENCODINGS.names() if name != "none"])
def test_where_sums_must_be_kept_nothing_is_rounded(write, algorithm: str, name: str) -> None:
    path = write(f"{PEERS}exchange: {{compression: {name}}}\n")
    with pytest.raises(RecipeError, match="what is sent is what arrives") as caught:
        load_recipe(path, [f"algorithm={algorithm}"])
    assert caught.value.key == "exchange.compression" and caught.value.line is not None
    assert load_recipe(path, [f"algorithm={algorithm}", "exchange.compression=none"])


@pytest.mark.parametrize(
    ("text", "key", "problem"),
    [
        ("exchange: {compression: bfloat}", "exchange.compression.name", "did you mean 'bfloat16'"),
        ("exchange: {compression: {name: top-k, share: 2}}", "exchange.compression", "less than 1, not 2"),
        ("exchange: {compression: {name: top-k, share: few}}", "exchange.compression.share", "a number is needed"),
        ("exchange: {compression: {name: top-k, whole: int4}}", "exchange.compression", "did you mean 'int8'"),
        ("exchange: {compression: {name: int8, share: 0.1}}", "exchange.compression.share", "it has no options"),
        ("exchange: {compresion: int8}", "exchange.compresion", "did you mean 'compression'"),
        ("averaging: {outer: nestrov}", "averaging.outer.name", "did you mean 'nesterov'"),
        ("averaging: {outer: {name: nesterov, momentum: 1.0}}", "averaging.outer", "less than 1, not 1.0"),
        ("averaging: {outer: {name: nesterov, rate: 1.0}}", "averaging.outer.rate", "unknown option"),
    ],
)
def test_an_exchange_that_cannot_be_is_named_with_its_key_and_line(write, text: str, key: str, problem: str) -> None:
    path = write(f"{PEERS}{text}\n")
    with pytest.raises(RecipeError, match=problem) as caught:
        load_recipe(path, ["algorithm=fedavg"])
    assert caught.value.key == key
    assert caught.value.line is not None


def test_an_outer_optimiser_needs_an_aggregate(write) -> None:
    path = write(f"{PEERS}averaging: {{outer: {{name: nesterov, learning_rate: 0.5}}}}\n")
    assert load_recipe(path, ["algorithm=fedavg"]).averaging.outer == Choice(
        name="nesterov", options={"learning_rate": 0.5}
    )
    assert load_recipe(path, ["algorithm=modest"]).averaging.outer is not None
    for algorithm in sorted(NO_AGGREGATE):
        with pytest.raises(RecipeError, match=f"'nesterov' does not go with algorithm '{algorithm}'") as caught:
            load_recipe(path, [f"algorithm={algorithm}"])
        assert caught.value.key == "averaging.outer"


@pytest.mark.parametrize("setting", ["exchange.compression=top-k", "averaging.outer=nesterov"])
def test_what_one_participant_hands_on_no_rule_can_judge(write, setting: str) -> None:
    with pytest.raises(RecipeError, match="and rule 'median': an aggregator hears of the last aggregate from one"):
        load_recipe(write(PEERS), ["algorithm=modest", setting, "averaging.rule=median"])
    assert load_recipe(write(PEERS), ["algorithm=fedavg", setting, "averaging.rule=median"])


@pytest.mark.parametrize("setting", ["exchange.compression=top-k", "averaging.outer=nesterov"])
@pytest.mark.parametrize("start", ["initialisation=separate", "pretrain_epochs=1", "start_from=elsewhere"])
def test_a_step_from_a_common_model_needs_one_to_begin_with(write, setting: str, start: str) -> None:
    with pytest.raises(RecipeError, match="all peers have to begin with the same model") as caught:
        load_recipe(write(PEERS), ["algorithm=fedavg", setting, f"training.{start}"])
    assert caught.value.key == f"training.{start.partition('=')[0]}"
    assert load_recipe(write(PEERS), ["algorithm=fedavg", f"training.{start}"])


def test_a_model_that_is_not_there_cannot_be_compressed(write) -> None:
    with pytest.raises(RecipeError, match=r"exchange\.compression: the learner 'null' has no model"):
        load_recipe(write(PEERS), ["learner=null", "exchange.compression=int8"])


# ---- experts --------------------------------------------------------------------------------------------------------

EXPERTS = "algorithm: experts\npeers: 5\nmodel: unet\nlearner: diffusion\ndata: {partition: clusters}\n"


def test_experts_may_be_as_many_as_a_pipeline_has_room_for(write) -> None:
    path = write(EXPERTS)
    assert load_recipe(path).router == 4 and load_recipe(path, ["peers=17"]).router == 16
    for peers in (1, 18):
        with pytest.raises(RecipeError, match=f"{peers}: one peer trains the router") as caught:
            load_recipe(path, [f"peers={peers}"])
        assert caught.value.key == "peers"


@pytest.mark.parametrize(
    ("setting", "key", "problem"),
    [
        ("model=mlp", "model.name", "'diffusion' trains dit and unet, not 'mlp'"),
        ("learner=classifier", "learner.name", "algorithm 'experts' needs the learner 'diffusion'"),
        ("attack={name: sign-flip, peers: [1]}", "attack", "nothing that could be defended"),
        ("exchange.compression=int8", "exchange.compression", "it will be served"),
        ("averaging.outer=nesterov", "averaging.outer", "nothing is averaged"),
        ("learner.emma=0.9", "learner.emma", "did you mean 'ema'"),
        ("learner.assignment=x", "learner.assignment", "unknown option"),
        ("data.partition.look=1", "data.partition.look", "unknown option of 'clusters'"),
        ("data.partition.fine=many", "data.partition.fine", "a whole number is needed"),
        ("model.chanels=[8]", "model.chanels", "did you mean 'channels'"),
    ],
)
def test_what_experts_cannot_be_is_named(write, setting: str, key: str, problem: str) -> None:
    with pytest.raises(RecipeError, match=problem) as caught:
        load_recipe(write(EXPERTS), [setting])
    assert caught.value.key == key


def test_a_denoiser_classifies_nothing(write) -> None:
    with pytest.raises(RecipeError, match="the model 'unet' needs the learner 'diffusion'"):
        load_recipe(write(PEERS), ["model=unet"])
    assert load_recipe(write(PEERS), ["model=unet", "learner=diffusion"]).algorithm == "dpsgd"


# ---- split learning -------------------------------------------------------------------------------------------------

SPLIT = "algorithm: split\npeers: 2\nlearner: {name: split, cuts: ['2', '4'], nopeek: 0.5}\n"


def test_two_peers_may_split_a_network_and_the_second_does_not_count(write) -> None:
    recipe = load_recipe(write(SPLIT))
    assert recipe.aside == (1,)
    assert load_recipe(write(PEERS)).aside == ()


@pytest.mark.parametrize(
    ("setting", "key", "problem"),
    [
        ("peers=3", "peers", "3: one peer is the client, and one the server"),
        ("learner=classifier", "learner.name", "'split' needs both"),
        ("algorithm=dpsgd", "learner.name", "'split' needs both"),
        ("learner.cuts=2", "learner.cuts", "a list is needed"),
        ("learner.cutz=['2', '4']", "learner.cutz", "did you mean 'cuts'"),
        ("learner={name: split}", "learner", "needs a value for 'cuts'"),
        ("data.partition={name: dirichlet, alpha: 1.0}", "data.partition", "the client has all the images"),
        ("training.precision=bfloat16", "training.precision", "computes in float32"),
        ("training.pretrain_epochs=1", "training.pretrain_epochs", "neither can train alone"),
        ("attack={name: sign-flip, peers: [1]}", "attack", "exchange no models"),
        ("exchange.compression=int8", "exchange.compression", "it sends no models"),
        ("averaging.outer=nesterov", "averaging.outer", "nothing is averaged"),
        ("averaging.rule=median", "averaging.rule", "nothing is averaged"),
    ],
)
def test_what_split_learning_cannot_be_is_named(write, setting: str, key: str, problem: str) -> None:
    with pytest.raises(RecipeError, match=problem) as caught:
        load_recipe(write(SPLIT), [setting])
    assert caught.value.key == key
