//! Which server is asked for a lease. One is asked at a time: who has what is wanted free comes first, then who
//! has the fewest in its queue. What no server can do is said for each of them.

use crate::client::local::{GpuSeen, Kind, Refused, ServerSeen, Want};
use vsgpu_core::pool::{Filter, Slot, SlotKind};

/// The servers to ask, best first.
///
/// # Errors
/// Why none of them will do.
pub(super) fn choose(servers: &[ServerSeen], want: &Want, build: &str) -> Result<Vec<String>, Refused> {
    let filters: Result<Vec<Filter>, String> = want.filters.iter().map(|text| text.parse()).collect();
    let filters = filters.map_err(|text| Refused { kind: Kind::NotAllowed, text, hint: String::new() })?;
    let mut usable = vec![];
    let mut problems = vec![];
    for server in servers {
        match fitness(server, want, &filters, build) {
            Ok(fitness) => usable.push((fitness, server.server.clone())),
            Err(problem) => problems.push((server, problem)),
        }
    }
    if !usable.is_empty() {
        // Stable: in the order of the fleet file where they are equal.
        usable.sort_by_key(|(fitness, _)| *fitness);
        return Ok(usable.into_iter().map(|(_, server)| server).collect());
    }
    let any = |wanted: Kind| problems.iter().any(|(_, (kind, _))| *kind == wanted);
    let kind = match () {
        // Later it may do.
        () if any(Kind::NotInTime) => Kind::NotInTime,
        () if any(Kind::NotAllowed) => Kind::NotAllowed,
        () => Kind::Unreachable,
    };
    let text: Vec<String> =
        problems.iter().map(|(server, (_, why))| format!("{}: {why}", server.server)).collect();
    let hint = match kind {
        Kind::Unreachable => "is the GPU server up, and that port open from here?",
        _ => "`vsgpu-gpu list` shows all GPUs and this machine's team",
    };
    Err(Refused { kind, text: text.join("; "), hint: hint.into() })
}

const NO_TEAM: &str = "this machine is in none of its teams";

fn other_build(there: &str, here: &str) -> String {
    format!(
        "another build of the engine: {there:.12} there, {here:.12} here; both sides need files of one build (`vsgpu apply`)"
    )
}

/// Why a server that answers serves nobody of this machine.
pub(super) fn unusable(server: &ServerSeen, build: &str) -> Option<String> {
    if !server.build.eq_ignore_ascii_case(build) {
        return Some(other_build(&server.build, build));
    }
    server.team.is_empty().then(|| NO_TEAM.into())
}

/// Whether it has enough of them free, and how many wait: smaller is better.
fn fitness(
    server: &ServerSeen,
    want: &Want,
    filters: &[Filter],
    build: &str,
) -> Result<(bool, u32), (Kind, String)> {
    if let Some(problem) = &server.problem {
        return Err((Kind::Unreachable, problem.clone()));
    }
    let not = |why: String| Err((Kind::NotAllowed, why));
    if !server.build.eq_ignore_ascii_case(build) {
        return not(other_build(&server.build, build));
    }
    if server.team.is_empty() {
        return not(NO_TEAM.into());
    }
    if want.gpus > server.team_may {
        return not(format!("team {} may have {} at once", server.team, server.team_may));
    }
    if server.drained {
        return Err((Kind::NotInTime, "it is drained: no new GPU leases".into()));
    }
    if !server.blocked.is_empty() {
        return Err((Kind::NotInTime, format!("it gives out no new GPU leases: {}", server.blocked)));
    }
    let fits = |gpu: &&GpuSeen| {
        let slot = Slot {
            uuid: gpu.uuid.clone(),
            kind: SlotKind::Whole,
            memory_mib: gpu.memory_mib,
            name: gpu.name.clone(),
        };
        gpu.memory_mib >= want.memory_mib && filters.iter().all(|filter| filter.fits(&slot))
    };
    let of = |state: &str| {
        server.gpus.iter().filter(|gpu| fits(gpu) && gpu.state.as_deref() == Some(state)).count() as u32
    };
    let (fitting, out) = (server.gpus.iter().filter(fits).count() as u32, of("out-of-service"));
    if fitting < want.gpus {
        return not(format!("it has {fitting} of that kind"));
    }
    if fitting - out < want.gpus {
        return Err((Kind::NotInTime, format!("it has {fitting} of that kind, {out} out of service")));
    }
    let free = of("free");
    let quota_left = server.team_holds + want.gpus <= server.team_may;
    Ok((free < want.gpus || server.waiting > 0 || !quota_left, server.waiting))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(name: &str, free: usize, held: usize, waiting: u32) -> ServerSeen {
        let gpu = |state: &str, n: usize| GpuSeen {
            name: "NVIDIA A100-PCIE-40GB".into(),
            memory_mib: 40_960,
            uuid: format!("GPU-{name}-{state}-{n}"),
            state: Some(state.into()),
        };
        ServerSeen {
            server: name.into(),
            address: String::new(),
            problem: None,
            team: "ml".into(),
            team_holds: 0,
            team_may: 4,
            waiting,
            drained: false,
            blocked: String::new(),
            engine: "lupine".into(),
            build: "ab".into(),
            cuda: "13.3".into(),
            rtt_micros: None,
            gpus: (0..free).map(|n| gpu("free", n)).chain((0..held).map(|n| gpu("held", n))).collect(),
        }
    }

    #[test]
    fn who_has_it_free_comes_first_then_the_shortest_queue() {
        let want = Want { gpus: 1, ..Want::default() };
        let all = [server("a", 0, 2, 3), server("b", 0, 2, 1), server("c", 1, 1, 0), server("d", 2, 0, 0)];
        let names = |all: &[ServerSeen]| choose(all, &want, "ab").map_err(|refused| refused.text);
        assert_eq!(names(&all), Ok(["c", "d", "b", "a"].map(String::from).to_vec()));
        let drained = ServerSeen { drained: true, ..server("e", 2, 0, 0) };
        assert_eq!(names(&[drained.clone(), server("f", 0, 1, 9)]), Ok(vec!["f".into()]));
        assert!(names(&[drained]).is_err_and(|why| why.contains("e: it is drained")));
    }

    #[test]
    fn why_none_will_do_is_said_of_each() {
        let want = Want { gpus: 3, filters: vec!["device.name=a100".into()], ..Want::default() };
        let away = ServerSeen { problem: Some("no answer within 5 s".into()), ..server("a", 4, 0, 0) };
        let refused = choose(std::slice::from_ref(&away), &want, "ab").err();
        assert!(refused.is_some_and(|r| r.kind == Kind::Unreachable && r.text == "a: no answer within 5 s"));
        let refused = choose(&[away, server("b", 2, 0, 0)], &want, "ab").err();
        assert!(
            refused
                .is_some_and(|r| r.kind == Kind::NotAllowed && r.text.contains("b: it has 2 of that kind"))
        );
        let refused = choose(&[server("b", 4, 0, 0)], &want, "cd").err();
        assert!(refused.is_some_and(|r| r.text.contains("ab there, cd here")));
        let wrong = Want { filters: vec!["colour=green".into()], ..want };
        assert!(choose(&[server("b", 4, 0, 0)], &wrong, "ab").is_err_and(|r| r.text.contains("no filter")));
    }
}
