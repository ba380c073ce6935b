"""`/metrics`, as Prometheus' own client reads it."""

import urllib.request

from conftest import CARD
from prometheus_client.parser import text_string_to_metric_families


def test_prometheus_reads_it(daemon):
    text = urllib.request.urlopen(f"{daemon.address}/metrics").read().decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    used = families["DCGM_FI_DEV_FB_USED"]
    assert used.type == "gauge"
    assert used.samples[0].value == CARD["memory"]["used"] >> 20
    assert used.samples[0].labels["UUID"] == CARD["uuid"]
    assert families["DCGM_FI_DEV_SM_CLOCK"].samples[0].value == CARD["clock_mhz"]
    held = {sample.labels["holder"]: sample.value for sample in families["sovereign_gpu_held_bytes"].samples}
    assert held["Xorg"] == 310 << 20
