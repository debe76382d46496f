//! VMware Bitfusion, for sites that still run it: its client's package, its tokens, and the proof on a GPU of its
//! servers. Its end of life is past and nobody can download it any more: all files are the operator's own, and
//! what its tools print is known from public records alone (`readers::bitfusion`).
//!
//! Deliberately absent: its servers, their database and the plug-in in vCenter (no documents, nothing to try); and
//! `bitfusion list_gpus` at a look. Each call claims the client's id, and the client keeps a copy of its token file
//! for each claim: looking would change the machine. It is asked with the proof.

use super::fact::{BitfusionConfig, BitfusionFact, Home, NetworkGpuFact, NetworkProof, not_proved};
use super::spec::{BitfusionFiles, ClientEngine, ClientSpec, ELEMENTS, MOST_HOMES, ROOT, is_home, proof};
use crate::distro::{self, OS_RELEASE};
use crate::facts::{engine_bundles, proof_record};
use crate::guest::cuda_proof;
use std::collections::BTreeSet;
use vsgpu_core::artifact::{Artifact, Kind, PackageContent};
use vsgpu_core::pool::config::BundleFile;
use vsgpu_core::readers::bitfusion::{self, Said};
use vsgpu_core::readers::cuda_report;
use vsgpu_core::text::piece;
use vsgpu_core::{Command, Effect, Observation, Probe, Unreadable, Verdict, WordOr};

const PROGRAM: &str = "bitfusion";
const PROGRAM_PATH: &str = "/usr/bin/bitfusion";
/// What was set up, for the next look.
const CONFIG: &str = "/etc/vsgpu/bitfusion.json";
const CONFIG_VERSION: u32 = 1;
const RECORD: &str = "/var/lib/vsgpu/bitfusion-proof.json";
/// Where the tokens lie while they are placed; only root may look into it.
const UNPACKED: &str = "/var/lib/vsgpu/bitfusion";
/// The servers' certificate authority.
const CA: &str = "/etc/bitfusion/tls/ca.crt";
const TOKEN: &str = "client.yaml";
const SERVERS: &str = "servers.conf";
/// What an archive of tokens holds.
const UNPACKED_FILES: [&str; 3] = ["ca.crt", TOKEN, SERVERS];
/// Characters of a tool's own words.
const MOST_WORDS: usize = 400;
/// Megabytes that the proof asks for.
const MEMORY: u64 = 1024;
/// For the client to find a server, and for our program on it.
const ASK_SECS: u32 = 120;
const PROOF_SECS: u32 = 600;
const UNPACK_SECS: u32 = 60;

fn in_home(home: &str, file: &str) -> String {
    format!("{home}/.bitfusion/{file}")
}

/// Kind, mode and owner of homes and what is in them; a line for each that is there. No link is followed, nothing is
/// opened.
fn stat(homes: &[String]) -> Command {
    let paths = homes.iter().flat_map(|home| {
        [home.clone(), format!("{home}/.bitfusion"), in_home(home, TOKEN), in_home(home, SERVERS)]
    });
    Command::new("stat", ["-c", "%f %u %n"].map(String::from).into_iter().chain(paths))
}

/// The homes that a configuration names, also one that cannot be read as a whole: tokens are never forgotten.
fn homes_in(text: &str) -> Vec<String> {
    let named = serde_json::from_str::<serde_json::Value>(text).ok();
    let named = named.and_then(|value| serde_json::from_value::<Vec<String>>(value["homes"].clone()).ok());
    let plain = named.unwrap_or_default().into_iter().filter(|home| is_home(home)).take(MOST_HOMES);
    std::iter::once(ROOT.to_string()).chain(plain).collect()
}

fn config(seen: &Observation) -> Result<Option<Result<BitfusionConfig, String>>, Unreadable> {
    let read = |text: &str| match serde_json::from_str::<BitfusionConfig>(text) {
        Ok(config) if config.version == CONFIG_VERSION => Ok(config),
        Ok(config) => Err(format!("its version is {}, known is {CONFIG_VERSION}", config.version)),
        Err(why) => Err(why.to_string()),
    };
    Ok(seen.file(CONFIG)?.map(read))
}

/// What is to be asked.
pub(super) fn probes(seen: &Observation) -> Vec<Probe> {
    let mut probes = vec![
        Probe::Read(CONFIG.into()),
        Probe::Read(RECORD.into()),
        Probe::Read(OS_RELEASE.into()),
        Probe::Size(PROGRAM_PATH.into()),
        Probe::Hash(CA.into()),
    ];
    probes.push(Probe::List(UNPACKED.into()));
    if let Ok(Some(text)) = seen.file(CONFIG) {
        probes.push(Probe::Run(stat(&homes_in(text))));
        probes.push(Probe::Read(in_home(ROOT, SERVERS)));
    }
    probes
}

/// What is so.
pub(super) fn parse(seen: &Observation) -> Result<BitfusionFact, Unreadable> {
    let (config, broken) = match config(seen)? {
        None => (None, None),
        Some(Ok(config)) => (Some(config), None),
        Some(Err(why)) => (None, Some(why)),
    };
    let homes = match seen.file(CONFIG)? {
        None => vec![],
        Some(text) => {
            let homes = homes_in(text);
            let lines = &seen.output(&stat(&homes))?.stdout;
            homes.iter().map(|home| look(seen, home, lines)).collect()
        }
    };
    let left = seen.names(UNPACKED).unwrap_or_default().into_iter();
    Ok(BitfusionFact {
        program: seen.text(&Probe::Size(PROGRAM_PATH.into()))?.is_some(),
        proof: proved(seen)?,
        ca: seen.text(&Probe::Hash(CA.into()))?.map(String::from),
        os_release: seen.file(OS_RELEASE)?.unwrap_or_default().into(),
        left: left.filter(|name| UNPACKED_FILES.contains(name)).map(String::from).collect(),
        config,
        broken,
        homes,
    })
}

fn look(seen: &Observation, home: &str, lines: &str) -> Home {
    // Kind and mode in one number, as the kernel has them.
    let of = |path: &str| {
        let words = lines.lines().find_map(|line| line.strip_suffix(path)?.strip_suffix(' '))?;
        let (mode, owner) = words.split_once(' ')?;
        Some((u32::from_str_radix(mode, 16).ok()?, owner))
    };
    let kind = |mode: u32, kind: u32| mode & 0o170_000 == kind;
    let (folder, file) = (0o040_000, 0o100_000);
    let his = of(home);
    let own = |owner: &str| his.is_some_and(|(_, his)| his == owner);
    let foreign = match (his, of(&format!("{home}/.bitfusion"))) {
        (Some((mode, _)), _) if !kind(mode, folder) => Some("it is a link: name the folder that it leads to"),
        (_, Some((mode, _))) if !kind(mode, folder) => Some("`.bitfusion` in it is no folder: remove it"),
        (_, Some((_, owner))) if !own(owner) => {
            Some("`.bitfusion` in it is not its user's: give it to him (`chown -R`)")
        }
        _ => None,
    };
    let text = if home == ROOT { seen.file(&in_home(home, SERVERS)).ok().flatten() } else { None };
    Home {
        home: home.into(),
        token: of(&in_home(home, TOKEN))
            .is_some_and(|(mode, owner)| kind(mode, file) && mode & 0o077 == 0 && own(owner)),
        conf: of(&in_home(home, SERVERS)).is_some_and(|(mode, _)| kind(mode, file)),
        servers: text.and_then(|text| Some(bitfusion::servers(text).ok()?.addresses.into_iter().collect())),
        foreign: foreign.map(String::from),
    }
}

fn proved(seen: &Observation) -> Result<Option<NetworkProof>, Unreadable> {
    let Some(record) = proof_record::read(seen, RECORD)? else { return Ok(None) };
    let said: Vec<Said> = record.outputs.iter().map(|run| bitfusion::read(&run.output.both())).collect();
    let last = record.outputs.last();
    let text = last.map(|run| run.output.both()).unwrap_or_default();
    let report = cuda_report::read(&text).ok();
    let granted = said.iter().rev().find_map(|said| said.granted.as_ref());
    let failure = match (&report, granted) {
        (Some(report), Some(_)) => report.failure.as_ref().map(ToString::to_string),
        // Without that line the program may have run on something else.
        (Some(_), None) => Some("Bitfusion does not say that it locked a GPU for it".into()),
        (None, _) => {
            // What was asked first tells more: the way to the servers.
            let cause = said.iter().find_map(|said| said.failure.as_ref());
            let why = cause.map_or_else(
                || {
                    let line = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
                    format!("{}: {line}", last.map(|run| run.output.ended.to_string()).unwrap_or_default())
                },
                |cause| {
                    let (what, todo) = cause.explained();
                    format!("{what} ({todo})")
                },
            );
            // What a tool says is of any length.
            Some(piece(&why, MOST_WORDS))
        }
    };
    Ok(Some(NetworkProof {
        at: record.at,
        current: record.is_of(seen, CONFIG)?,
        commands: record.commands(),
        report: report.unwrap_or_default(),
        server: granted.and_then(|granted| granted.server.clone()),
        round_trip: None,
        failure,
    }))
}

/// The wish that this configuration meets.
pub(super) fn as_spec(fact: &NetworkGpuFact) -> Option<ClientSpec> {
    let config = fact.bitfusion.config.as_ref()?;
    let file = |kept: &BundleFile, kind, holds| Artifact {
        artifact: kept.file.clone(),
        sha256: Some(kept.sha256.clone()),
        size: Some(kept.size),
        kind: Some(kind),
        holds,
    };
    let held = |name: &str, version: &str| PackageContent {
        name: name.into(),
        version: version.into(),
        acceptance: None,
    };
    let package_kind = if config.package.file.ends_with(".rpm") { Kind::Rpm } else { Kind::Deb };
    let in_tokens = std::iter::once(held("ca.crt", &config.ca));
    let in_tokens = in_tokens.chain(config.servers.iter().map(|server| held("server", server)));
    let in_tokens = in_tokens.chain(config.made.map(|made| held("made", &made.to_string())));
    Some(ClientSpec {
        engine: ClientEngine::Bitfusion(BitfusionFiles {
            package: file(&config.package, package_kind, vec![]),
            tokens: file(&config.tokens, Kind::BitfusionTokens, in_tokens.collect()),
            homes: config.homes.clone(),
        }),
        servers: vec![],
        users: vec![],
        proof: proof(),
        addresses: vec![],
    })
}

/// Takes files of Bitfusion's out of a home, however many there are: by name and kind, without following a link and
/// without asking which there are, because that changes with each call of its client.
fn take_away(home: &str, files: &[&str]) -> Effect {
    let mut args =
        vec![home.to_string(), "-maxdepth".into(), "2".into(), "-type".into(), "f".into(), "(".into()];
    for (at, file) in files.iter().enumerate() {
        args.extend((at > 0).then(|| "-o".to_string()));
        args.extend(["-path".into(), in_home(home, file)]);
    }
    args.extend([")".into(), "-delete".into()]);
    let gone = Some("No such file or directory".into());
    Effect::Run { command: Command::new("find", args), already: gone }
}

/// The token, and the copies that its client made of it.
fn forget(home: &Home) -> Effect {
    take_away(&home.home, &["client.yaml*"])
}

/// All that is in a home.
fn clear(home: &Home) -> Effect {
    take_away(&home.home, &["client.yaml*", SERVERS])
}

fn unpacked(file: &str) -> Effect {
    Effect::Remove { path: format!("{UNPACKED}/{file}") }
}

/// What takes it back, where anything of it is there. The package stays: it is the site's own, and does nothing
/// without a token.
pub(super) fn leave(fact: &NetworkGpuFact) -> Vec<Effect> {
    let of = &fact.bitfusion;
    if of.config.is_none() && of.broken.is_none() && of.left.is_empty() {
        return vec![];
    }
    let mut effects: Vec<Effect> = of.homes.iter().map(clear).collect();
    effects.extend(of.left.iter().map(|file| unpacked(file)));
    effects.extend([CA, CONFIG].map(|path| Effect::Remove { path: path.into() }));
    effects
}

/// What the archive of tokens holds, as the controller read it.
fn in_tokens(tokens: &Artifact) -> Option<(String, BTreeSet<String>, Option<u64>)> {
    let of = |name: &'static str| tokens.holds.iter().filter(move |held| held.name == name);
    let ca = of("ca.crt").next()?.version.clone();
    let made = of("made").find_map(|held| held.version.parse().ok());
    Some((ca, of("server").map(|held| held.version.clone()).collect(), made))
}

/// The proof's commands; none where none is wanted.
fn proof_commands(spec: &ClientSpec) -> Vec<Command> {
    let WordOr::Map(proof) = &spec.proof else { return vec![] };
    let memory = proof.memory.map_or(MEMORY, |memory| memory.mib).to_string();
    let program = format!("{}/{}", cuda_proof::PROGRAM_FOLDER, cuda_proof::PROGRAM);
    let run = ["run", "-n", "1", "-m", &memory, "--", &program, "--elements", ELEMENTS];
    // Its token is looked for in the home, which a daemon need not have.
    let of = |args: &[&str], secs| Command::new(PROGRAM, args.iter().copied()).env("HOME", ROOT).within(secs);
    vec![of(&["list_gpus"], ASK_SECS), of(&run, PROOF_SECS)]
}

/// Whether it is so, and what makes it so.
pub(super) fn check(files: &BitfusionFiles, spec: &ClientSpec, fact: &NetworkGpuFact) -> Verdict {
    let of = &fact.bitfusion;
    match (files.package.kind, files.tokens.kind) {
        (None, _) | (_, None) => {
            return Verdict::waits("what Bitfusion's files hold is not known", "GPUs of Bitfusion");
        }
        (Some(Kind::Deb | Kind::Rpm), Some(Kind::BitfusionTokens)) => {}
        (Some(Kind::Deb | Kind::Rpm), _) => {
            return Verdict::blocked_for_good(
                format!("{} is no archive of Bitfusion's tokens", files.tokens.file_name()),
                "a tar file with ca.crt, client.yaml and servers.conf: vCenter, Bitfusion, Tokens gives it",
            );
        }
        _ => {
            return Verdict::blocked_for_good(
                format!("{} is no package of Bitfusion's client", files.package.file_name()),
                "name the .deb or .rpm of this guest's distribution",
            );
        }
    }
    let Some(family) = distro::of(&of.os_release) else {
        return Verdict::blocked("this distribution's package tool is not known", distro::UNKNOWN);
    };
    let Some((ca, servers, made)) = in_tokens(&files.tokens) else {
        return Verdict::waits("what Bitfusion's tokens hold is not known", "GPUs of Bitfusion");
    };
    let wants = format!("GPUs of Bitfusion at {}", servers.iter().cloned().collect::<Vec<_>>().join(", "));
    let config = BitfusionConfig {
        version: CONFIG_VERSION,
        package: engine_bundles::bundle_file(&files.package),
        tokens: engine_bundles::bundle_file(&files.tokens),
        ca,
        servers,
        made,
        homes: files.homes.clone(),
        placed: true,
    };
    let wanted = |home: &&Home| config.all_homes().any(|wanted| wanted == home.home);
    if let Some((home, why)) =
        of.homes.iter().filter(wanted).find_map(|home| Some((&home.home, home.foreign.as_ref()?)))
    {
        return Verdict::blocked(
            format!("the token cannot be put into {home}"),
            format!("{why}; or take it out of `homes`"),
        );
    }
    let was = of.config.as_ref();
    let (mut is, mut effects) = (vec![], vec![]);
    if !of.program || was.is_none_or(|was| was.package != config.package) {
        is.push(if of.program { "another package" } else { "not installed" }.to_string());
        effects.push(Effect::run(family.install(&[files.package.stored(None)])));
    }
    let Placing { there, gone, copies } = place(&config, of);
    if !gone.is_empty() || !copies.is_empty() {
        is.push("its tokens are not in place, or others may read them".into());
    }
    // Whose home is not there is said before anything of it is done.
    effects.extend(there);
    effects.extend(gone);
    let write = |placed: bool| {
        let config = BitfusionConfig { placed, ..config.clone() };
        let contents = serde_json::to_string(&config).unwrap_or_default() + "\n";
        Effect::Write { path: CONFIG.into(), contents, mode: 0o644 }
    };
    if !copies.is_empty() {
        let stored = files.tokens.stored(None);
        // Neither the archive's modes nor its folder's count: nobody else looks into it.
        let unpack = [
            "--no-same-owner",
            "--no-same-permissions",
            "--no-overwrite-dir",
            "-xf",
            &stored,
            "-C",
            UNPACKED,
        ];
        effects.push(write(false));
        effects.push(Effect::run(Command::new("mkdir", ["-p", "-m", "700", UNPACKED])));
        effects.push(Effect::run(Command::new("chmod", ["700", UNPACKED])));
        effects.push(Effect::run(Command::new("tar", unpack).within(UNPACK_SECS)));
        effects.extend(copies);
        effects.extend(UNPACKED_FILES.map(unpacked));
        effects.push(write(true));
    } else if !was.is_some_and(|was| config.is_as(was)) {
        is.push("what is to be is not written down".into());
        effects.push(write(true));
    }
    if !of.left.is_empty() && !effects.contains(&unpacked(TOKEN)) {
        is.push("tokens that were unpacked are left".into());
        effects.extend(of.left.iter().map(|file| unpacked(file)));
    }
    let commands = proof_commands(spec);
    let named: Vec<String> = commands.iter().map(ToString::to_string).collect();
    match not_proved(&named, of.proof.as_ref()).filter(|_| !commands.is_empty()) {
        None if effects.is_empty() => return Verdict::met(met(&config, spec, of)),
        None if commands.is_empty() => {}
        why => {
            is.push(why.unwrap_or_else(|| "its proof is to be made again".into()));
            effects.push(Effect::Record { commands, path: RECORD.into(), beside: CONFIG.into() });
        }
    }
    if let Some(why) = &of.broken {
        is = vec![format!("{CONFIG} cannot be read ({why})")];
    } else if was.is_none() {
        is = vec!["not set up".into()];
    }
    Verdict::unmet(is.join(", "), wants, effects)
}

/// What is to be done about tokens.
struct Placing {
    /// Homes must be there.
    there: Vec<Effect>,
    /// What goes.
    gone: Vec<Effect>,
    /// What comes out of the archive.
    copies: Vec<Effect>,
}

fn place(config: &BitfusionConfig, of: &BitfusionFact) -> Placing {
    let same_token = of.config.as_ref().is_some_and(|was| was.placed && was.tokens == config.tokens);
    let known = of.config.as_ref().map(|was| &was.homes);
    let seen = |home: &str| of.homes.iter().find(|seen| seen.home == home);
    let (mut there, mut gone, mut copies) = (vec![], vec![], vec![]);
    for home in &of.homes {
        if !config.all_homes().any(|wanted| wanted == home.home) {
            gone.push(clear(home));
        } else if !same_token {
            // The copies as well that a client made of another one.
            gone.push(forget(home));
        }
    }
    let copy = |file: &str, to: String, mode| Effect::Copy { from: format!("{UNPACKED}/{file}"), to, mode };
    if of.ca.as_ref() != Some(&config.ca) {
        copies.push(copy("ca.crt", CA.into(), 0o644));
    }
    for home in config.all_homes() {
        let (token, servers) = (in_home(home, TOKEN), in_home(home, SERVERS));
        // A home that was not ours may have a token of its own.
        let is_new = home != ROOT && !known.is_some_and(|known| known.iter().any(|old| old == home));
        let seen = seen(home).filter(|_| same_token && !is_new);
        if !seen.is_some_and(|seen| seen.token) {
            there.push(Effect::Require {
                command: Command::new("stat", ["-c", "%F", home]),
                shows: "directory".into(),
                otherwise: format!(
                    "{home} is no folder: make its user first, or name the folder that it leads to"
                ),
            });
            copies.push(copy(TOKEN, token, 0o600));
        }
        // Its client notes there which servers it reached: only another meaning is another file.
        let same = seen.is_some_and(|seen| {
            seen.conf && (home != ROOT || seen.servers.as_ref() == Some(&config.servers))
        });
        if !same {
            copies.push(copy(SERVERS, servers, 0o644));
        }
    }
    Placing { there, gone, copies }
}

fn met(config: &BitfusionConfig, spec: &ClientSpec, of: &BitfusionFact) -> String {
    let servers = config.servers.iter().cloned().collect::<Vec<_>>().join(", ");
    let Some(proof) = of.proof.as_ref().filter(|_| matches!(spec.proof, WordOr::Map(_))) else {
        return format!("Bitfusion set up for {servers}, not proved");
    };
    let name = proof.report.devices.first().map(|device| device.name.as_str()).unwrap_or_default();
    let server = proof.server.as_deref().unwrap_or(&servers);
    format!("{name} over the network from Bitfusion's {server}, every sum right")
}
