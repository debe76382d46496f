//! Stands in for an engine of network GPUs and for a program that uses one. It carries no CUDA: bytes go there
//! and come back. What it keeps of the real one: it is a forking TCP program, on every address, that asks
//! nobody who he is; a connection is a session; a program whose connection breaks gets error 46 and ends.
//!
//! `lupine_driver_server`, or `vsgpu-stand-in engine`: the engine. `vsgpu-stand-in program MODE`: the program.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::exit,
    reason = "test code"
)]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

/// CUDA_ERROR_DEVICE_UNAVAILABLE.
const UNAVAILABLE: i32 = 46;

fn main() {
    let mut args = std::env::args();
    let called = args.next().unwrap_or_default();
    let args: Vec<String> = args.collect();
    let status = match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["session"] => session(),
        ["engine"] => engine(),
        ["program", mode] => program(mode),
        [] if called.ends_with("lupine_driver_server") => engine(),
        other => panic!("simulated engine: not understood: {other:?}"),
    };
    std::process::exit(status);
}

fn env(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

fn engine() -> i32 {
    let port: u16 = env("LUPINE_PORT").parse().unwrap_or(14_833);
    let listener = TcpListener::bind(("0.0.0.0", port)).unwrap();
    println!("simulated engine: port {port}, GPUs {}", env("CUDA_VISIBLE_DEVICES"));
    let own = std::env::current_exe().unwrap();
    for stream in listener.incoming().flatten() {
        let mut child = Command::new(&own);
        child.arg("session").stdin(Stdio::from(OwnedFd::from(stream))).stdout(Stdio::null());
        let mut child = child.spawn().unwrap();
        std::thread::spawn(move || child.wait());
    }
    0
}

/// One connection: says hello, then does what the first byte says.
fn session() -> i32 {
    let stream = std::io::stdin();
    // Both directions are one descriptor here.
    let socket: OwnedFd = std::os::fd::AsFd::as_fd(&stream).try_clone_to_owned().unwrap();
    let mut socket = TcpStream::from(socket);
    let _ = socket.set_nodelay(true);
    let hello = format!("hello from a simulated engine, GPU {}\n", env("CUDA_VISIBLE_DEVICES"));
    let mut mode = [0];
    if socket.write_all(hello.as_bytes()).is_err() || socket.read_exact(&mut mode).is_err() {
        return 0;
    }
    match mode[0] {
        b'c' => std::process::abort(),
        b'w' => {
            // A kernel that runs until the program is gone: no byte passes, the GPU is busy.
            let busy = env("VSGPU_SIM_BUSY");
            let _ = std::fs::write(&busy, std::process::id().to_string());
            let _ = socket.read(&mut mode);
            let _ = std::fs::remove_file(busy);
        }
        _ => {
            let mut buffer = vec![0; 64 << 10];
            while let Ok(n @ 1..) = socket.read(&mut buffer) {
                if socket.write_all(&buffer[..n]).is_err() {
                    break;
                }
            }
        }
    }
    0
}

/// A program: `echo` does one thing and ends, `hold` goes on until its connection breaks, `work` too, with a
/// busy GPU and no byte, `crash` makes its session crash.
fn program(mode: &str) -> i32 {
    let servers = env("LUPINE_SERVER");
    let Some(mut stream) = servers.split(',').next().and_then(|server| TcpStream::connect(server).ok())
    else {
        eprintln!("simulated CUDA program: error {UNAVAILABLE}: no server at `{servers}`");
        return UNAVAILABLE;
    };
    let _ = stream.set_nodelay(true);
    let mut hello = vec![];
    let mut one = [0];
    while stream.read_exact(&mut one).is_ok() && one[0] != b'\n' {
        hello.push(one[0]);
    }
    if hello.is_empty() {
        eprintln!("simulated CUDA program: error {UNAVAILABLE}: the connection was closed");
        return UNAVAILABLE;
    }
    println!("{}", String::from_utf8_lossy(&hello));
    let first: &[u8] = match mode {
        "work" => b"w",
        "crash" => b"c",
        _ => b"eping",
    };
    let broken = || {
        eprintln!("simulated CUDA program: error {UNAVAILABLE}: the connection broke");
        UNAVAILABLE
    };
    let mut back = [0; 4];
    if stream.write_all(first).is_err() || mode != "work" && stream.read_exact(&mut back).is_err() {
        return broken();
    }
    println!("{}", if mode == "work" { "working" } else { "pong" });
    if mode == "echo" {
        return 0;
    }
    let _ = stream.read(&mut one);
    broken()
}
