//! GPU counters of hosts, as vCenter or ESXi measures them: the group `gpu`, its latest sample of 20 seconds. Numbers of
//! counters differ between servers, so they are looked up by their names. One call for fifty hosts.

use crate::fault::Fault;
use crate::inventory::Host;
use crate::session::{Session, instance};
use crate::soap::{Ref, around, object, text};
use std::collections::BTreeMap;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use vsgpu_core::readers::xml::Element;
use vsgpu_core::text::piece;

/// Hosts of one question.
const AT_ONCE: usize = 50;
/// A sample that is older is none: a host that stalls keeps its last one.
const FRESH: time::Duration = time::Duration::seconds(90);

/// A counter that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Counter {
    /// Share of time in which the GPU worked, hundredths of a percent.
    Utilization,
    /// Frame buffer in use, KB.
    MemoryUsed,
    /// Frame buffer that VMs have reserved, KB.
    MemoryReserved,
    /// All of it, KB.
    MemoryTotal,
    /// Watts.
    Power,
    /// Degrees Celsius.
    Temperature,
    /// Errors of the memory that were corrected.
    EccCorrected,
    /// Errors of the memory that were not.
    EccUncorrected,
}

/// By its name in the group `gpu`, as vCenter 9.0.1 has them; older ones have fewer.
const COUNTERS: [(&str, Counter); 8] = [
    ("utilization", Counter::Utilization),
    ("mem.used", Counter::MemoryUsed),
    ("mem.reserved", Counter::MemoryReserved),
    ("mem.total", Counter::MemoryTotal),
    ("power.used", Counter::Power),
    ("temperature", Counter::Temperature),
    ("mem.errors.ecc.corrected", Counter::EccCorrected),
    ("mem.errors.ecc.uncorrected", Counter::EccUncorrected),
];

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// The host's name.
    pub host: String,
    /// What the server calls the GPU; `all` where it says only the sum of the host's.
    pub gpu: String,
    /// What was measured.
    pub counter: Counter,
    /// In the counter's unit.
    pub value: i64,
}

/// Numbers of the counters on this server.
#[derive(Clone, Debug, Default)]
pub struct Known(BTreeMap<String, Counter>);

impl Known {
    /// Whether this server has any.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Looks the counters up; of several forms of one the average goes before the latest.
///
/// # Errors
/// What the server said, or why it is not heard.
pub fn known(session: &mut Session) -> Result<Known, Fault> {
    let manager = session.named("perfManager")?;
    let objects = session.of(&[manager], &["perfCounter"])?;
    let all = objects
        .iter()
        .filter_map(|object| object.values.get("perfCounter"))
        .flat_map(|value| &value.children);
    Ok(chosen(all))
}

fn chosen<'a>(all: impl Iterator<Item = &'a Element>) -> Known {
    let key = |of: &Element, info: &str| {
        of.child(info).and_then(|info| info.child("key")).map(|key| key.text.clone())
    };
    let word = |of: &Element, name: &str| of.child(name).map(|e| e.text.clone()).unwrap_or_default();
    let mut best: BTreeMap<Counter, (usize, String)> = BTreeMap::new();
    for counter in all.filter(|counter| key(counter, "groupInfo").as_deref() == Some("gpu")) {
        let name = key(counter, "nameInfo").unwrap_or_default();
        let Some((_, what)) = COUNTERS.iter().find(|(known, _)| *known == name) else { continue };
        let Some(rank) = ["average", "latest"].iter().position(|kind| *kind == word(counter, "rollupType"))
        else {
            continue;
        };
        let number = word(counter, "key");
        let better = best.get(what).is_none_or(|(there, _)| rank < *there);
        if better && number.parse::<i32>().is_ok() {
            best.insert(*what, (rank, number));
        }
    }
    Known(best.into_iter().map(|(what, (_, number))| (number, what)).collect())
}

/// The latest values of these hosts.
///
/// # Errors
/// What the server said, or why it is not heard.
pub fn read(session: &mut Session, known: &Known, hosts: &[&Host]) -> Result<Vec<Reading>, Fault> {
    if known.is_empty() {
        return Ok(vec![]);
    }
    let manager = session.named("perfManager")?;
    let instance = instance();
    let clock = session.within_session(|session| session.look("CurrentTime", &instance, ""))?;
    let now = clock.first().and_then(|clock| at(&clock.text));
    let now = now.ok_or_else(|| Fault::unheard("the server does not say what time it is"))?;
    let ids: String = known
        .0
        .keys()
        .map(|number| around("metricId", &(text("counterId", number) + &text("instance", "*"))))
        .collect();
    let tail = format!("{ids}{}{}", text("intervalId", "20"), text("format", "normal"));
    let names: BTreeMap<&Ref, &str> = hosts.iter().map(|host| (&host.of, host.name.as_str())).collect();
    let mut all = vec![];
    for some in hosts.chunks(AT_ONCE) {
        let one = |host: &&Host| {
            around("querySpec", &(object("entity", &host.of) + &text("maxSample", "1") + &tail))
        };
        let arguments: String = some.iter().map(one).collect();
        let answers = session.within_session(|session| session.look("QueryPerf", &manager, &arguments))?;
        for answer in &answers {
            let of = answer.child("entity").and_then(Ref::of);
            let Some(host) = of.and_then(|of| names.get(&of).copied()) else { continue };
            all.extend(readings(answer, host, known, now));
        }
    }
    Ok(all)
}

/// A moment as the API writes it.
fn at(text: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(text, &Rfc3339).ok()
}

fn readings(answer: &Element, host: &str, known: &Known, now: OffsetDateTime) -> Vec<Reading> {
    let last = answer.all("sampleInfo").last().and_then(|info| info.child("timestamp"));
    if last.and_then(|last| at(&last.text)).is_none_or(|last| now - last >= FRESH) {
        return vec![];
    }
    let one = |series: &Element| {
        let id = series.child("id")?;
        let counter = *known.0.get(&id.child("counterId")?.text)?;
        // A sample that is missing is -1.
        let value = series.all("value").last()?.text.parse::<i64>().ok().filter(|value| *value >= 0)?;
        let gpu = id.child("instance").map(|instance| piece(&instance.text, 80)).unwrap_or_default();
        Some(Reading { host: host.into(), gpu, counter, value })
    };
    let mut all: Vec<Reading> = answer.all("value").filter_map(one).collect();
    // The sum over a host's GPUs has no instance: it is said only where nothing else is.
    let of_one =
        |counter: Counter, all: &[Reading]| all.iter().any(|r| r.counter == counter && !r.gpu.is_empty());
    let sums: Vec<Reading> = all.iter().filter(|r| r.gpu.is_empty()).cloned().collect();
    all.retain(|reading| !reading.gpu.is_empty());
    for sum in sums {
        if !of_one(sum.counter, &all) {
            all.push(Reading { gpu: "all".into(), ..sum });
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use vsgpu_core::readers::xml::parse;

    #[test]
    fn values_are_of_gpus_and_sums_only_where_nothing_else_is() {
        let info = |key: &str, name: &str, rollup: &str| {
            format!(
                "<PerfCounterInfo><key>{key}</key><nameInfo><key>{name}</key></nameInfo><groupInfo><key>gpu</key></groupInfo><rollupType>{rollup}</rollupType></PerfCounterInfo>"
            )
        };
        let all = [
            info("459", "utilization", "latest"),
            info("280", "utilization", "average"),
            info("786", "utilization", "maximum"),
            info("283", "power.used", "latest"),
            info("2", "usage", "average").replace("<key>gpu<", "<key>cpu<"),
        ];
        let root = parse(&format!("<val>{}</val>", all.concat())).unwrap();
        let known = chosen(root.children.iter());
        assert_eq!(known.0.keys().collect::<Vec<_>>(), ["280", "283"]);
        let series = |counter: &str, instance: &str, value: &str| {
            format!(
                "<value><id><counterId>{counter}</counterId><instance>{instance}</instance></id><value>7</value><value>{value}</value></value>"
            )
        };
        let answer = [
            series("280", "", "4000"),
            series("280", "0000:3b:00.0", "5000"),
            series("280", "0000:af:00.0", "-1"),
            series("283", "", "300"),
            series("999", "x", "1"),
        ];
        let stamp =
            "<sampleInfo><timestamp>2026-11-27T14:00:00Z</timestamp><interval>20</interval></sampleInfo>";
        let whole = parse(&format!("<returnval>{stamp}{}</returnval>", answer.concat())).unwrap();
        let now = at("2026-11-27T15:01:00.5+01:00").unwrap();
        let got = readings(&whole, "esx-01", &known, now);
        // Too old, or of an unknown age.
        assert!(readings(&whole, "esx-01", &known, now + FRESH).is_empty());
        let without = parse(&format!("<returnval>{}</returnval>", answer.concat())).unwrap();
        assert!(readings(&without, "esx-01", &known, now).is_empty());
        let reading =
            |gpu: &str, counter, value| Reading { host: "esx-01".into(), gpu: gpu.into(), counter, value };
        assert_eq!(
            got,
            [reading("0000:3b:00.0", Counter::Utilization, 5000), reading("all", Counter::Power, 300)]
        );
    }
}
