//! What users read.

use crate::client::local::{GpuSeen, Granted, LeaseSeen, ServerSeen};
use serde::Serialize;
use std::fmt::Write as _;
use vsgpu_core::words::counted;

/// `40 GiB`, `9.5 GiB`, `512 MiB`.
fn memory(mib: u64) -> String {
    match mib {
        0..=1023 => format!("{mib} MiB"),
        mib if mib.is_multiple_of(1024) => format!("{} GiB", mib / 1024),
        mib => format!("{:.1} GiB", mib as f64 / 1024.0),
    }
}

/// `45 s`, `12 min`, `8 h`, `7 h 48 min`, `3 days`.
fn span(secs: u64) -> String {
    match secs {
        0..=119 => format!("{secs} s"),
        120..=7_199 => format!("{} min", secs / 60),
        7_200..=172_799 if secs % 3_600 < 60 => format!("{} h", secs / 3_600),
        7_200..=172_799 => format!("{} h {} min", secs / 3_600, secs / 60 % 60),
        _ => format!("{} days", secs / 86_400),
    }
}

/// `1st`, `2nd`, `3rd`, `11th`.
fn nth(n: u32) -> String {
    let ending = match (n % 100, n % 10) {
        (11..=13, _) => "th",
        (_, 1) => "st",
        (_, 2) => "nd",
        (_, 3) => "rd",
        _ => "th",
    };
    format!("{n}{ending}")
}

/// `2 x A100-PCIE-40GB, 40 GiB`.
fn gpus(gpus: &[GpuSeen]) -> String {
    let mut kinds: Vec<(String, usize)> = vec![];
    for gpu in gpus {
        // Whose it is everybody knows; a line has 80 columns.
        let name = gpu.name.strip_prefix("NVIDIA ").unwrap_or(&gpu.name);
        let kind = format!("{name}, {}", memory(gpu.memory_mib));
        match kinds.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, count)) => *count += 1,
            None => kinds.push((kind, 1)),
        }
    }
    let shown = |(kind, count): &(String, usize)| match count {
        1 => kind.clone(),
        count => format!("{count} x {kind}"),
    };
    kinds.iter().map(shown).collect::<Vec<_>>().join("; ")
}

/// Where one stands.
pub(super) fn waiting(server: &str, place: u32, gpus: u32, team: &str, holds: u32, may: u32) -> String {
    let place = nth(place);
    format!(
        "waiting: {place} for {} of {server} (team {team} holds {holds} of {may})",
        counted(gpus as usize, "GPU")
    )
}

/// What one got.
pub(super) fn granted(granted: &Granted) -> String {
    let mut text =
        format!("granted: {} of {} (GPU lease {}", gpus(&granted.gpus), granted.server, granted.lease);
    if let Some(rtt) = granted.rtt_micros {
        let _ = write!(text, ", round trip {:.1} ms", rtt as f64 / 1000.0);
    }
    text.push(')');
    let time = granted.for_millis.map(|most| format!("for {} at most", span(most.div_ceil(1000))));
    let idle = granted.idle_millis.map(|idle| format!("ends when idle for {}", span(idle.div_ceil(1000))));
    let limits: Vec<String> = time.into_iter().chain(idle).collect();
    if !limits.is_empty() {
        let _ = write!(text, "\n{}", limits.join(", "));
    }
    text
}

/// What is about to happen.
pub(super) fn warning(idle: bool, left_millis: u64) -> String {
    let left = span(left_millis.div_ceil(1000));
    match idle {
        true => format!("warning: the GPU is idle: its lease ends in {left} unless the program uses it"),
        false => format!("warning: the time of the GPU lease is up in {left}"),
    }
}

/// One document.
pub(super) fn json(name: &str, of: &impl Serialize) -> String {
    let document = serde_json::json!({ "version": 1, name: of });
    serde_json::to_string_pretty(&document).unwrap_or_default() + "\n"
}

/// All servers, 80 columns where their names allow it.
pub(super) fn servers(servers: &[ServerSeen]) -> String {
    let mut text = String::new();
    for server in servers {
        if let Some(problem) = &server.problem {
            let _ = writeln!(text, "{}: cannot be used: {problem}", server.server);
            continue;
        }
        let free = server.gpus.iter().filter(|gpu| gpu.state.as_deref() == Some("free")).count();
        let _ = write!(text, "{}: {free} of {} free", server.server, counted(server.gpus.len(), "GPU"));
        if server.waiting > 0 {
            let _ = write!(text, ", {} waiting", server.waiting);
        }
        if server.drained {
            text.push_str(", drained: no new GPU leases");
        }
        if !server.blocked.is_empty() {
            let _ = write!(text, ", no new GPU leases: {}", server.blocked);
        }
        match server.team.as_str() {
            "" => text.push_str("; this machine is in none of its teams\n"),
            team => {
                let _ = writeln!(text, "; team {team} holds {} of {}", server.team_holds, server.team_may);
            }
        }
        let width = server.gpus.iter().map(|gpu| gpu.name.chars().count()).max().unwrap_or(0);
        for gpu in &server.gpus {
            let state = gpu.state.as_deref().unwrap_or_default().replace('-', " ");
            let _ = writeln!(text, "  {:width$}  {:>9}  {state}", gpu.name, memory(gpu.memory_mib));
        }
        let _ = write!(text, "  engine {}, CUDA {}", server.engine, server.cuda);
        if let Some(rtt) = server.rtt_micros {
            let _ = write!(text, ", round trip {:.1} ms", rtt as f64 / 1000.0);
        }
        text.push('\n');
    }
    text
}

/// The leases of this machine.
pub(super) fn leases(leases: &[LeaseSeen]) -> String {
    if leases.is_empty() {
        return "no GPU leases on this machine\n".into();
    }
    let mut text = String::new();
    for lease in leases {
        let _ = writeln!(
            text,
            "GPU lease {} of {}, user {}: {}",
            lease.lease,
            lease.server,
            lease.user,
            gpus(&lease.gpus)
        );
        let _ = write!(text, "  for {}", span(lease.for_secs));
        if let Some(left) = lease.left_secs {
            let _ = write!(text, ", {} left", span(left));
        }
        let _ = write!(text, ", {}", counted(lease.connections as usize, "connection"));
        if let Some(rtt) = lease.rtt_micros {
            let _ = write!(text, ", round trip {:.1} ms", rtt as f64 / 1000.0);
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(state: Option<&str>) -> GpuSeen {
        GpuSeen {
            name: "NVIDIA A100-PCIE-40GB".into(),
            memory_mib: 40_960,
            uuid: "GPU-1".into(),
            state: state.map(String::from),
        }
    }

    #[test]
    fn lines_of_a_run() {
        assert_eq!(
            waiting("gpu-srv-1", 3, 1, "ml", 2, 2),
            "waiting: 3rd for 1 GPU of gpu-srv-1 (team ml holds 2 of 2)"
        );
        let lease = Granted {
            server: "gpu-srv-1".into(),
            lease: 7,
            gpus: vec![gpu(None), gpu(None)],
            for_millis: Some(8 * 3_600_000),
            idle_millis: Some(900_000),
            rtt_micros: Some(412),
            env: vec![],
            without: vec![],
        };
        assert_eq!(
            granted(&lease),
            "granted: 2 x A100-PCIE-40GB, 40 GiB of gpu-srv-1 (GPU lease 7, round trip 0.4 ms)\nfor 8 h at most, ends when idle for 15 min"
        );
        assert_eq!(warning(false, 60_000), "warning: the time of the GPU lease is up in 60 s");
    }

    #[test]
    fn a_list_says_what_is_free_and_what_is_wrong() {
        let one = ServerSeen {
            server: "gpu-srv-1".into(),
            address: "10.0.0.5:14843".into(),
            problem: None,
            team: "ml".into(),
            team_holds: 1,
            team_may: 2,
            waiting: 2,
            drained: false,
            blocked: String::new(),
            engine: "lupine".into(),
            build: "ab".into(),
            cuda: "13.3".into(),
            rtt_micros: Some(412),
            gpus: vec![gpu(Some("free")), gpu(Some("out-of-service"))],
        };
        let away = ServerSeen {
            server: "gpu-srv-2".into(),
            problem: Some("no answer within 4 s".into()),
            ..one.clone()
        };
        assert_eq!(
            servers(&[one, away]),
            "gpu-srv-1: 1 of 2 GPUs free, 2 waiting; team ml holds 1 of 2\n  NVIDIA A100-PCIE-40GB     40 GiB  free\n  NVIDIA A100-PCIE-40GB     40 GiB  out of service\n  engine lupine, CUDA 13.3, round trip 0.4 ms\ngpu-srv-2: cannot be used: no answer within 4 s\n"
        );
        assert_eq!(leases(&[]), "no GPU leases on this machine\n");
    }
}
