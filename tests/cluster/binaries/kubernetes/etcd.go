package main

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/signal"
	"syscall"

	"go.etcd.io/etcd/server/v3/embed"
)

// runEtcd serves a single etcd member until SIGTERM or SIGINT. It writes without waiting for the disk: its data does
// not outlive the test run, and fsync is what makes a small machine's API server slow.
func runEtcd() int {
	config, err := etcdConfig(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "etcd: %v\n", err)
		return usage
	}
	// From here on a signal waits: one that comes while etcd starts ends it as cleanly as a later one.
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	if err := serveEtcd(config, stop); err != nil {
		fmt.Fprintf(os.Stderr, "etcd: %v\n", err)
		return 1
	}
	return 0
}

func etcdConfig(arguments []string) (*embed.Config, error) {
	flags := flag.NewFlagSet("etcd", flag.ContinueOnError)
	directory := flags.String("data-dir", "", "directory of the data; made when missing")
	listen := flags.String("listen", "http://127.0.0.1:2379", "URL for clients, on a loopback address")
	if err := flags.Parse(arguments); err != nil {
		return nil, err
	}
	if *directory == "" {
		return nil, errors.New("--data-dir is missing")
	}
	clients, err := loopbackURL(*listen)
	if err != nil {
		return nil, fmt.Errorf("--listen: %w", err)
	}
	config := embed.NewConfig()
	config.Dir = *directory
	config.UnsafeNoFsync = true
	config.LogOutputs = []string{"stderr"}
	config.LogLevel = "warn"
	// Left at zero, as the library does, every request counts as slow and is logged.
	config.WarningUnaryRequestDuration = embed.DefaultWarningUnaryRequestDuration
	config.Name = "e2e"
	config.ListenClientUrls = []url.URL{*clients}
	config.AdvertiseClientUrls = config.ListenClientUrls
	// etcd insists on listening for other members, of which there are none: on a port that the kernel picks.
	config.ListenPeerUrls = []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	config.AdvertisePeerUrls = config.ListenPeerUrls
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	return config, nil
}

// loopbackURL refuses addresses that others could reach: this etcd asks nobody who they are.
func loopbackURL(text string) (*url.URL, error) {
	parsed, err := url.Parse(text)
	if err != nil {
		return nil, err
	}
	address := net.ParseIP(parsed.Hostname())
	if parsed.Scheme != "http" || address == nil || !address.IsLoopback() || parsed.Port() == "" {
		return nil, fmt.Errorf("%q is not http://LOOPBACK_ADDRESS:PORT", text)
	}
	return parsed, nil
}

func serveEtcd(config *embed.Config, stop <-chan os.Signal) error {
	server, err := embed.StartEtcd(config)
	if err != nil {
		return err
	}
	defer server.Close()
	select {
	case err := <-server.Err():
		return err
	case <-server.Server.StopNotify():
		return errors.New("the server stopped by itself; its log says why")
	case <-stop:
		return nil
	}
}
