"""What the kubelet sees: two sockets and the services behind them."""
