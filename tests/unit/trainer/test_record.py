"""What the result of training states beside the record that is equal for equal runs."""

from __future__ import annotations

from finetune_api.protocol.stage_results import MetricValue, TrainResult
from finetune_trainer.train.record import add_download_time

LOSS = MetricValue(name="loss", value="0.5")
RESULT = TrainResult(
    uri="s3://a", sha256="0", num_bytes=1, manifest_sha256="1", step=3, metrics=[LOSS]
)


def test_the_result_states_how_long_the_base_model_was_downloaded_with_gpus_held():
    seconds = MetricValue(name="model_download_seconds", value="93.1")
    assert add_download_time(RESULT, 93.06).metrics == [seconds, LOSS]
    assert add_download_time(RESULT, 0.0) == RESULT
