//! The answer of `ready`: hosts, then VMs, then what to look at in vCenter.

use crate::ready::{Can, Ready};
use crate::render::{Answer, columns};
use serde_json::json;

fn names(list: &[String]) -> String {
    match list {
        [a, b, c, d, rest @ ..] if !rest.is_empty() => format!("{a}, {b}, {c}, {d} and {} more", rest.len()),
        some => some.join(", "),
    }
}

pub fn answer(ready: &Ready) -> Answer {
    let compose = |wide: bool| {
        let mut text = String::new();
        for host in &ready.hosts {
            let mut what = vec![];
            if host.in_maintenance == Some(true) {
                what.push("is in maintenance mode".to_string());
            }
            if !host.shut_down.is_empty() {
                what.push(format!("to shut down: {}", names(&host.shut_down)));
            }
            if !host.may_move.is_empty() {
                what.push(format!("may move: {}", names(&host.may_move)));
            }
            match host.others {
                0 => {}
                1 => what.push("1 VM without a GPU to be moved".into()),
                n => what.push(format!("{n} VMs without a GPU to be moved")),
            }
            if what.is_empty() {
                what.push("nothing runs: it can enter maintenance mode now".into());
            }
            text += &format!("{}: {}\n", host.host, what.join("; "));
        }
        let mut rows = vec![
            ["VM", "HOST", "GPU", "VMOTION", "SUSPEND", "SNAPSHOT", "MAINTENANCE"].map(String::from).to_vec(),
        ];
        let word = |can: &Can| can.answer.word().to_string();
        for vm in &ready.vms {
            rows.push(vec![
                vm.vm.clone(),
                vm.host.clone(),
                vm.gpu.clone(),
                word(&vm.vmotion),
                word(&vm.suspend),
                word(&vm.snapshot),
                if vm.running { word(&vm.maintenance) } else { "is off".into() },
            ]);
        }
        if rows.len() > 1 {
            text += &format!("\n{}\n", columns(&rows));
        } else {
            text += "\nNo VM has a GPU.\n";
        }
        let mut why: Vec<(String, Vec<String>)> = vec![];
        for vm in &ready.vms {
            for (what, can) in [
                ("vMotion", &vm.vmotion),
                ("suspend", &vm.suspend),
                ("snapshot", &vm.snapshot),
                ("maintenance", &vm.maintenance),
            ] {
                for reason in &can.why {
                    let line = format!("{what}, {}: {reason}", can.answer.word());
                    match why.iter_mut().find(|(known, _)| *known == line) {
                        Some((_, vms)) => vms.push(vm.vm.clone()),
                        None => why.push((line, vec![vm.vm.clone()])),
                    }
                }
            }
        }
        for (line, vms) in why {
            let vms = if wide { vms.join(", ") } else { names(&vms) };
            text += &format!("\n{line}\n  {vms}");
        }
        let old: Vec<String> = ready
            .vms
            .iter()
            .filter(|vm| vm.snapshots > 0)
            .map(|vm| format!("{} ({})", vm.vm, vm.snapshots))
            .collect();
        if !old.is_empty() {
            text += &format!("\nhave snapshots: {}", names(&old));
        }
        if !ready.settings.is_empty() {
            text += "\n\nTo look at in vCenter, which a host does not show:";
            text += &ready.settings.iter().map(|s| format!("\n- {s}")).collect::<String>();
        }
        text + &ready.unknown.iter().map(|u| format!("\nNOT counted: {u}")).collect::<String>()
    };
    let names = ready.vms.iter().map(|vm| vm.vm.clone()).collect();
    Answer { wide: Some(compose(true)), names, ..Answer::new(json!(ready), compose(false)) }
}
