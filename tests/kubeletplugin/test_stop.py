"""A driver that was replaced ends the plugin with a status of its own."""

from fracgpu.kubeletplugin.stop import EXIT_DRIVER_REPLACED, PluginStop


def test_the_driver_decides_about_the_exit_status_though_a_signal_follows() -> None:
    stop = PluginStop()
    stop.driver_replaced()
    stop.ask()
    stop.wait()
    assert stop.exit_status == EXIT_DRIVER_REPLACED
