"""Works beside each other: their results in order, the first error, and that the others stop."""

import threading

import jax
import pytest

from latent_audit.runtime import mesh, side_by_side


def test_results_come_in_the_order_of_the_items_and_the_works_run_at_the_same_time():
    # None passes before all three are there.
    meeting = threading.Barrier(3, timeout=30)

    def work(item):
        meeting.wait()
        return 10 * item

    assert side_by_side.of_each(work, [3, 1, 2], threading.Event()) == [30, 10, 20]


def test_a_single_item_and_a_mesh_stay_in_the_thread_that_asked():
    def thread(item):
        return threading.current_thread()

    assert side_by_side.of_each(thread, ["one"], threading.Event()) == [threading.current_thread()]
    assert side_by_side.of_each(thread, [], threading.Event()) == []
    with jax.set_mesh(mesh.make_mesh(devices=jax.devices()[:1])):
        assert set(side_by_side.of_each(thread, [1, 2], threading.Event())) == {threading.current_thread()}


def test_the_first_error_is_raised_and_the_others_stop_at_their_next_word():
    failed, told, broken = threading.Event(), [], threading.Event()
    advance = side_by_side.heeding(lambda label, count=1: told.append((label, count)), failed)

    def work(item):
        if item == "breaks":
            broken.wait(30)
            raise ValueError("broken")
        advance("before", count=2)
        broken.set()
        assert failed.wait(30)
        advance("after")
        pytest.fail("it went on")

    with pytest.raises(ValueError, match="broken"):
        side_by_side.of_each(work, ["goes on", "breaks"], failed)
    assert told == [("before", 2)]


def test_words_do_not_meet():
    """Two threads that tell a counter which loses words that meet: none is lost."""
    seen, inside = [], threading.Lock()

    def advance(label):
        assert inside.acquire(blocking=False), "two at the same time"
        seen.append(label)
        inside.release()

    failed = threading.Event()
    told = side_by_side.heeding(advance, failed)
    side_by_side.of_each(lambda item: [told(item) for _ in range(200)], ["a", "b"], failed)
    assert sorted(seen) == ["a"] * 200 + ["b"] * 200


def test_programs_give_the_same_bits_beside_each_other():
    values = jax.random.normal(jax.random.key(0), (4, 96, 96))

    @jax.jit
    def turns(x):
        return jax.lax.fori_loop(0, 30, lambda _, y: jax.numpy.tanh(y @ x), x)

    def bits(index):
        return jax.device_get(turns(values[index])).tobytes()

    alone = [bits(index) for index in range(4)]
    assert side_by_side.of_each(bits, range(4), threading.Event()) == alone and len(set(alone)) == 4
