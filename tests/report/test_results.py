"""Facts about a run: written, read and free of secrets."""

from sparsification.report.results import redact_secrets


def test_tokens_are_hidden_however_they_are_given():
    argv = "--token abc --hub_token=def --hub-token ghi --do_train --token --push_to_hub".split()
    assert (
        redact_secrets(argv) == "--token ... --hub_token=... --hub-token ... --do_train --token --push_to_hub".split()
    )
