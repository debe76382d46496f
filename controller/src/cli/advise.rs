//! `vsgpu advise`: which way to use a GPU. Answered by options, by a file, or by questions at a terminal. No agent is
//! asked. Exit status 0 a way fits, 6 none does.

use crate::advise::{Advice, Guest, License, Need, Question, Workload, advise, memory, need, percent};
use crate::cli::compat::esxi;
use crate::cli::global::CliResult;
use crate::cli::tables::Tables;
use crate::error::{Error, Exit, Kind};
use crate::files;
use crate::inventory::{Inventory, saved};
use crate::node::NodeKind;
use crate::render::Printer;
use crate::render::advise::{answer, questions};
use crate::render::documents::{FleetOf, value};
use clap::Args;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use vsgpu_core::knowledge::gpus;
use vsgpu_host_agent::facts::{EsxVersion, PciGpus};

/// A file of answers is a few lines.
const MOST_BYTES: u64 = 64 << 10;
/// VMs on one GPU that are asked about, at most.
const MOST_USERS: u64 = 1000;

#[derive(Args, Default)]
#[command(
    after_help = "Examples:\n  vsgpu advise                                  asks you\n  vsgpu advise --workload training --gpu A100-80\n  vsgpu advise --workload inference --users-per-gpu 7 --need isolation --gpu A100\n  vsgpu advise --workload graphics --users-per-gpu 4 --gpu L40S --license vws --show-fleet"
)]
pub(super) struct Advise {
    #[command(flatten)]
    tables: Tables,
    /// training, inference, development, graphics or hpc
    #[arg(long, value_enum, ignore_case = true, value_name = "KIND", hide_possible_values = true)]
    workload: Option<Workload>,
    /// VMs that use one GPU at the same time
    #[arg(long, value_name = "N")]
    users_per_gpu: Option<u64>,
    /// vmotion, drs, ha, snapshots, suspend, isolation, no-gpu-in-host
    #[arg(long, value_delimiter = ',', value_parser = need, value_name = "LIST")]
    need: Vec<Need>,
    /// What may be lost against bare metal: 5%
    #[arg(long, value_name = "PERCENT")]
    max_loss: Option<String>,
    /// A100-80, L40S, "RTX PRO 6000"
    #[arg(long, value_name = "GPU")]
    gpu: Option<String>,
    /// GPU memory of each VM: 20GiB
    #[arg(long, value_name = "SIZE")]
    memory: Option<String>,
    /// Release of ESXi: 8.0.2 or 8.0U2
    #[arg(long, value_name = "RELEASE")]
    esxi: Option<String>,
    /// linux or windows
    #[arg(long, value_enum, ignore_case = true, value_name = "OS", hide_possible_values = true)]
    guest: Option<Guest>,
    /// nvaie (vCS), vws (vDWS), vpc, vapps or none; and standard or enterprise-plus
    #[arg(long, value_name = "LIST")]
    license: Option<String>,
    /// GPU and ESXi from facts that `vsgpu facts -o json` wrote
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// Answers from a file, one `option: value` a line
    #[arg(long, value_name = "FILE")]
    answers: Option<PathBuf>,
    /// Print the fleet file of the best way only
    #[arg(long)]
    show_fleet: bool,
}

/// A number is as good as a text.
fn text<'de, D: serde::Deserializer<'de>>(input: D) -> Result<Option<String>, D::Error> {
    Ok(match serde_json::Value::deserialize(input)? {
        serde_json::Value::Null => None,
        serde_json::Value::String(text) => Some(text),
        serde_json::Value::Array(all) => {
            Some(all.iter().filter_map(|v| v.as_str()).collect::<Vec<_>>().join(","))
        }
        other => Some(other.to_string()),
    })
}

/// A list, or one text with commas.
fn list<'de, D: serde::Deserializer<'de>>(input: D) -> Result<Vec<Need>, D::Error> {
    let words: Vec<String> = match serde_json::Value::deserialize(input)? {
        serde_json::Value::Null => vec![],
        serde_json::Value::Array(all) => {
            all.iter().map(|v| v.as_str().map_or_else(|| v.to_string(), String::from)).collect()
        }
        serde_json::Value::String(text) => text.split(',').map(String::from).collect(),
        other => vec![other.to_string()],
    };
    words.iter().map(|word| need(word).map_err(serde::de::Error::custom)).collect()
}

/// The same in a file.
#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Answers {
    workload: Option<Workload>,
    users_per_gpu: Option<u64>,
    #[serde(default, deserialize_with = "list")]
    need: Vec<Need>,
    #[serde(default, deserialize_with = "text")]
    max_loss: Option<String>,
    #[serde(default, deserialize_with = "text")]
    gpu: Option<String>,
    #[serde(default, deserialize_with = "text")]
    memory: Option<String>,
    #[serde(default, deserialize_with = "text")]
    esxi: Option<String>,
    guest: Option<Guest>,
    #[serde(default, deserialize_with = "text")]
    license: Option<String>,
}

fn usage(why: impl Into<String>) -> Vec<Error> {
    vec![Error::new(Kind::Usage, why).hint("`vsgpu advise --help` has examples; without options it asks")]
}

impl Advise {
    pub fn run(mut self, printer: &Printer) -> CliResult {
        self.tables.lay()?;
        let asks = self.workload.is_none() && self.answers.is_none();
        if let Some(file) = self.answers.take() {
            self.fill_in(answers(&file)?);
        }
        if let Some(file) = self.from.take() {
            self.take_from_facts(&saved::read(&file).map_err(|e| vec![e])?)?;
        }
        let question = match asks && std::io::stdin().is_terminal() && std::io::stderr().is_terminal() {
            true => match questions(self.question_or_default()?).map_err(usage)? {
                Some(question) => question,
                None => return Err(usage("no answer was given")),
            },
            false => self.question()?,
        };
        let advice = advise(&question);
        if self.show_fleet {
            let Some(best) = advice.ways.iter().find(|w| w.fits) else { return Err(none_fits(&advice)) };
            printer.show(crate::render::Answer::new(
                value(&FleetOf { way: best.way, fleet: best.fleet.clone() }),
                best.fleet.trim_end(),
            ));
            return Ok(Exit::Done);
        }
        let fits = advice.ways.iter().any(|w| w.fits);
        printer.show(answer(&question, &advice));
        Ok(if fits { Exit::Done } else { Exit::Not(Kind::Blocked) })
    }

    /// Options win over the file.
    fn fill_in(&mut self, answers: Answers) {
        self.workload = self.workload.or(answers.workload);
        self.users_per_gpu = self.users_per_gpu.or(answers.users_per_gpu);
        if self.need.is_empty() {
            self.need = answers.need;
        }
        self.max_loss = self.max_loss.take().or(answers.max_loss);
        self.gpu = self.gpu.take().or(answers.gpu);
        self.memory = self.memory.take().or(answers.memory);
        self.esxi = self.esxi.take().or(answers.esxi);
        self.guest = self.guest.or(answers.guest);
        self.license = self.license.take().or(answers.license);
    }

    /// The GPU that there are most of, and the oldest ESXi of its hosts.
    fn take_from_facts(&mut self, inventory: &Inventory) -> Result<(), Vec<Error>> {
        let mut boards: BTreeMap<&'static str, (usize, Option<String>)> = BTreeMap::new();
        for node in inventory.nodes.keys().filter(|node| node.kind == NodeKind::Host) {
            let Ok(listed) = inventory.fact::<PciGpus>(node) else { continue };
            let version = inventory.fact::<EsxVersion>(node).ok().map(|esx| esx.version);
            for gpu in listed.gpus() {
                let model =
                    gpu.device_id.as_deref().and_then(|id| gpus::by_pci(id, gpu.subsystem_id.as_deref()));
                let Some(model) = model else { continue };
                let (n, oldest) = boards.entry(model.token).or_default();
                *n += 1;
                if let Some(version) = &version
                    && oldest.as_deref().is_none_or(|o| !EsxVersion::at_least(version, o))
                {
                    *oldest = Some(version.clone());
                }
            }
        }
        let Some((token, (_, version))) = boards.into_iter().max_by_key(|(_, (n, _))| *n) else {
            return Err(usage("these facts know of no GPU"));
        };
        self.gpu.get_or_insert_with(|| token.into());
        if self.esxi.is_none() {
            self.esxi = version;
        }
        Ok(())
    }

    fn question(&self) -> Result<Question, Vec<Error>> {
        if self.workload.is_none() {
            let kinds: Vec<&str> = Workload::ALL.iter().map(|w| w.word()).collect();
            return Err(usage(format!("what the VMs do is not said: --workload {}", kinds.join("|"))));
        }
        self.question_or_default()
    }

    fn question_or_default(&self) -> Result<Question, Vec<Error>> {
        let percent = |text: &String| percent(text).map_err(|why| usage(format!("--max-loss: {why}")));
        let memory = |text: &String| memory(text).map_err(|why| usage(format!("--memory: {why}")));
        let users = self.users_per_gpu.unwrap_or(1);
        if !(1..=MOST_USERS).contains(&users) {
            return Err(usage(format!("--users-per-gpu: from 1 to {MOST_USERS}")));
        }
        let license = self.license.as_deref().map(License::parse).transpose();
        Ok(Question {
            workload: self.workload.unwrap_or(Workload::Training),
            users,
            needs: self.need.clone(),
            max_loss: self.max_loss.as_ref().map(percent).transpose()?,
            gpu: self
                .gpu
                .as_deref()
                .map(|name| vsgpu_core::text::piece(name.trim(), 60))
                .filter(|n| !n.is_empty()),
            esxi: self.esxi.as_deref().map(esxi).transpose()?,
            guest: self.guest.unwrap_or_default(),
            license: license.map_err(|why| usage(format!("--license: {why}")))?.unwrap_or_default(),
            memory: self.memory.as_ref().map(memory).transpose()?,
        })
    }
}

fn none_fits(advice: &Advice) -> Vec<Error> {
    let error = Error::new(Kind::Blocked, "no way fits, so there is no fleet file for it");
    vec![match &advice.nearest {
        Some(nearest) => error.hint(nearest.clone()),
        None => error,
    }]
}

fn answers(file: &Path) -> Result<Answers, Vec<Error>> {
    let text = files::read_text(file, MOST_BYTES).map_err(|e| vec![e])?;
    crate::fleet::yaml::read(&file.display().to_string(), &text).map_err(|e| vec![e])
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        advise: Advise,
    }

    /// Words of a line, with those in quotes whole.
    fn words(line: &str) -> Vec<String> {
        let mut words = vec!["advise".to_string()];
        for (at, part) in line.split('\'').enumerate() {
            match at % 2 {
                0 => words.extend(part.split_whitespace().map(String::from)),
                _ => words.push(part.into()),
            }
        }
        words
    }

    #[test]
    fn answers_are_those_that_the_sources_give() {
        let cases = include_str!("../advise/cases.txt");
        let mut wrong = vec![];
        let mut seen = 0;
        for case in cases.split("\n\n").filter(|c| !c.starts_with('#')) {
            let lines: Vec<&str> = case.trim().lines().map(str::trim).collect();
            let [name, options, expected] = lines[..] else { panic!("{case}") };
            seen += 1;
            let question = Line::try_parse_from(words(options)).unwrap().advise.question().unwrap();
            let advice = advise(&question);
            let best = advice.ways.iter().find(|w| w.fits).map_or("none", |w| w.way.word());
            let fits = crate::advise::Kind::ALL.map(|kind| {
                let way = advice.ways.iter().find(|w| w.way == kind).unwrap();
                assert!(!way.reasons.is_empty(), "{name}: {kind:?}");
                if way.fits { "yes" } else { "no" }
            });
            let profile = |kind| {
                let way = advice.ways.iter().find(|w| w.way == kind).unwrap();
                let shown = |p: &vsgpu_core::knowledge::vgpu_types::VgpuType| {
                    vsgpu_core::knowledge::vgpu_types::plain(p.profile).to_uppercase()
                };
                way.profile.filter(|_| way.fits).map_or("-".into(), shown)
            };
            let said = format!("{best}: {}", fits.join(" "));
            let (wanted, types) = expected.split_once("; ").unwrap();
            let types: Vec<String> = types
                .split(' ')
                .map(|t| vsgpu_core::knowledge::vgpu_types::plain(t).to_uppercase())
                .collect();
            let got = [profile(crate::advise::Kind::VgpuTimeSliced), profile(crate::advise::Kind::VgpuMig)];
            let same = |(a, b): (&String, &String)| a == "-" || a == b;
            if said != wanted || !types.iter().zip(&got).all(same) {
                let reasons: Vec<String> = advice
                    .ways
                    .iter()
                    .map(|w| format!("    {}: {}", w.way.word(), w.reasons.join("; ")))
                    .collect();
                wrong.push(format!(
                    "{name}\n  {options}\n  said {said}; {}\n  want {expected}\n{}",
                    got.join(" "),
                    reasons.join("\n")
                ));
            }
            assert!(
                best != "none" || advice.nearest.is_some() || question.max_loss.is_some(),
                "{name}: no way out"
            );
        }
        assert!(wrong.is_empty(), "{} of {seen} wrong\n{}", wrong.len(), wrong.join("\n"));
        assert!(seen >= 60);
    }

    #[test]
    fn every_fleet_file_validates() {
        let cases = include_str!("../advise/cases.txt");
        for options in cases.lines().filter(|line| line.trim().starts_with("--workload")) {
            let question = Line::try_parse_from(words(options.trim())).unwrap().advise.question().unwrap();
            for way in advise(&question).ways {
                let fleet = crate::fleet::file::from_text(Path::new("fleet.yaml"), &way.fleet);
                let fleet = fleet.unwrap_or_else(|errors| panic!("{options}\n{}\n{errors:?}", way.fleet));
                if way.fits {
                    let judgement = crate::compat::judge(&fleet, None, &Default::default());
                    assert!(judgement.errors.is_empty(), "{options}\n{}\n{:?}", way.fleet, judgement.errors);
                }
            }
        }
    }
}
