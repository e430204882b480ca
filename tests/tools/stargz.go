// stargz-snapshotter as a proxy plugin of containerd, for benchmarks beside it.
//
//	containerd-stargz-grpc SOCKET ROOT CONFIG | --version
//
// Debian packages its library and ctr-remote, but not the daemon: this is the least around that library that is one. What CONFIG
// does not say is as the library has it; no credentials. get-containerd builds it.
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/contrib/snapshotservice"
	"github.com/containerd/containerd/log"
	"github.com/containerd/stargz-snapshotter/service"
	"github.com/pelletier/go-toml"
	"google.golang.org/grpc"
)

var version string // of the library, by the linker

func serve(socket, root, file string) error {
	var config service.Config
	tree, err := toml.LoadFile(file)
	if err == nil {
		err = tree.Unmarshal(&config)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	snapshotter, err := service.NewStargzSnapshotterService(context.Background(), root, &config)
	if err != nil {
		return err
	}
	defer snapshotter.Close()
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	snapshotsapi.RegisterSnapshotsServer(server, snapshotservice.FromSnapshotter(snapshotter))
	ending := make(chan os.Signal, 1)
	signal.Notify(ending, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-ending
		server.Stop()
	}()
	return server.Serve(listener)
}

func main() {
	if len(os.Args) == 2 && (os.Args[1] == "--version" || os.Args[1] == "--help") {
		fmt.Println("containerd-stargz-grpc", version)
		return
	}
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: containerd-stargz-grpc SOCKET ROOT CONFIG")
		os.Exit(2)
	}
	log.SetFormat(log.JSONFormat)
	if err := serve(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, "containerd-stargz-grpc:", err)
		os.Exit(1)
	}
}
