//! What goes wrong in a scenario, and when: power cuts, cuts of the network, somebody else's hand.

use crate::Rng;
use crate::scenario::{Play, Scenario, as_wished};
use std::collections::BTreeMap;
use std::time::Duration;

/// What goes wrong, and when.
pub(crate) struct Troubles {
    scenario: Scenario,
    next: Duration,
    left: u64,
    mend: Vec<(Duration, Mend)>,
    pub(crate) drifted_at: Option<Duration>,
    /// When somebody else was there before us, and what they did.
    pub(crate) hand: Option<(Duration, Hand)>,
    pub(crate) as_wished_when_complete: bool,
    reports: usize,
}

/// What somebody else does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hand {
    Maintenance,
    VmOff,
}

enum Mend {
    Bounce(String),
    Links,
}

impl Troubles {
    pub(crate) fn new(scenario: Scenario, rng: &mut Rng) -> Self {
        let left = match scenario {
            Scenario::Crashes => 1 + rng.below(6),
            Scenario::Network => 1 + rng.below(8),
            _ => 0,
        };
        Self {
            scenario,
            next: Duration::from_millis(200 + rng.below(6000)),
            left,
            mend: vec![],
            drifted_at: None,
            hand: None,
            as_wished_when_complete: true,
            reports: 0,
        }
    }

    pub(crate) fn step(
        &mut self,
        sim: &mut turmoil::Sim<'_>,
        rng: &mut Rng,
        play: &Play,
        down: &BTreeMap<String, Duration>,
    ) {
        let now = sim.elapsed();
        self.watch(play);
        let (due, later) = std::mem::take(&mut self.mend).into_iter().partition(|(at, _)| now >= *at);
        self.mend = later;
        let due: Vec<(Duration, Mend)> = due;
        for (_, mend) in due {
            match mend {
                Mend::Bounce(name) if !down.contains_key(&name) => sim.bounce(name.as_str()),
                Mend::Bounce(_) => {}
                Mend::Links => play.world.hosts.iter().for_each(|h| sim.repair("controller", h.as_str())),
            }
        }
        if self.scenario == Scenario::Drift && self.drifted_at.is_none() {
            return self.drift(sim, rng, play);
        }
        if self.scenario == Scenario::Another && self.hand.is_none() {
            return self.hand(sim, rng, play);
        }
        if self.left == 0 || now < self.next || play.controllers[0].done() {
            return;
        }
        self.left -= 1;
        self.next = now + Duration::from_millis(rng.below(12_000));
        let host = play.world.hosts[rng.below(play.world.hosts.len() as u64) as usize].clone();
        let controller = "controller";
        let running = sim.is_host_running(controller);
        match (self.scenario, rng.below(6)) {
            (Scenario::Crashes, _) | (Scenario::Network, 0) if running => {
                sim.crash(controller);
                play.controllers[0].disk.power_cut(rng);
                self.mend.push((
                    now + Duration::from_millis(100 + rng.below(20_000)),
                    Mend::Bounce(controller.into()),
                ));
            }
            (Scenario::Network, 1) if sim.is_host_running(host.as_str()) => {
                sim.crash(host.as_str());
                self.mend.push((now + Duration::from_millis(100 + rng.below(8000)), Mend::Bounce(host)));
            }
            (Scenario::Network, 2) => {
                sim.partition(controller, host.as_str());
                self.mend.push((now + Duration::from_millis(rng.below(60_000)), Mend::Links));
            }
            (Scenario::Network, 3) => {
                sim.partition_oneway(controller, host.as_str());
                self.mend.push((now + Duration::from_millis(rng.below(60_000)), Mend::Links));
            }
            (Scenario::Network, 4) => {
                sim.partition_oneway(host.as_str(), controller);
                self.mend.push((now + Duration::from_millis(rng.below(60_000)), Mend::Links));
            }
            (Scenario::Network, _) => {
                let slow = Duration::from_millis(50 + rng.below(3000));
                sim.set_link_max_message_latency(controller, host.as_str(), slow);
            }
            _ => {}
        }
    }

    /// Somebody brings the host out of maintenance mode, at any moment in which it is in it and up.
    fn drift(&mut self, sim: &mut turmoil::Sim<'_>, rng: &mut Rng, play: &Play) {
        let host = &play.world.hosts[0];
        let acts = play.world.acts();
        let begun = acts.iter().any(|a| a.call.contains("--enable true"));
        let still_to_come = !acts.iter().any(|a| a.call.contains("shutdown reboot"));
        if begun && still_to_come && sim.is_host_running(host.as_str()) && rng.one_in(30) {
            play.world.machine(host, |m| m.esxi().maintenance = false);
            self.drifted_at = Some(sim.elapsed());
        }
    }

    /// Somebody does to the host what the run is about to do: behind the plan, before the step.
    fn hand(&mut self, sim: &mut turmoil::Sim<'_>, rng: &mut Rng, play: &Play) {
        let acts = play.world.acts();
        let (hand, step) =
            if rng.one_in(2) { (Hand::Maintenance, "--enable true") } else { (Hand::VmOff, "power.") };
        let planned = !play.controllers[0].disk.files().is_empty();
        if !planned
            || play.controllers[0].done()
            || !rng.one_in(20)
            || acts.iter().any(|a| a.host == play.world.hosts[0] && a.call.contains(step))
        {
            return;
        }
        play.world.machine(&play.world.hosts[0], |m| match hand {
            Hand::Maintenance => m.esxi().maintenance = true,
            Hand::VmOff => m.esxi().vms[0].on = false,
        });
        self.hand = Some((sim.elapsed(), hand));
    }

    fn watch(&mut self, play: &Play) {
        let reports = play.controllers[0].reports();
        if reports.len() == self.reports {
            return;
        }
        self.reports = reports.len();
        match reports.last() {
            // Only a plan of all hosts: one that was gone on with may have been made while a host did not
            // answer.
            Some(Ok(report))
                if report.steps == 8 * play.world.hosts.len() && report.summary.done == report.steps =>
            {
                self.as_wished_when_complete &= as_wished(&play.world, "Consolidation").is_ok();
            }
            _ => {}
        }
    }
}
