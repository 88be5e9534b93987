"""Jobs are taken in their order, once each; what is given back comes last; at the end whoever waits gets nothing."""

import threading

from unicuco_plugin.executors.first_come import FirstCome


def test_jobs_come_in_their_order_and_what_was_given_back_last():
    line = FirstCome("abc")
    first = line.take(None, 2)
    line.give_back(first)
    assert [line.take(None, 2) for _ in range(3)] == [["b"], ["c"], ["a"]]


def test_everybody_who_waits_gets_nothing_once_all_is_over():
    line, found = FirstCome(""), []
    threads = [threading.Thread(target=lambda: found.append(line.take(None, 2))) for _ in range(3)]
    for thread in threads:
        thread.start()
    line.close()
    for thread in threads:
        thread.join(5)
    assert found == [[], [], []]
