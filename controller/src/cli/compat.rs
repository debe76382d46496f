//! `vsgpu compat`: does a combination work? Answers from the built-in tables (or NVIDIA's own catalogue)
//! without talking to any node: exit status 0 it does, 6 it does not, 3 nobody who would
//! know says so.

use crate::advise;
use crate::cli::global::{CliResult, now};
use crate::cli::tables::{self, Tables};
use crate::compat::{self, Combination, Finding, Gpu, GuestDriver, LicenseWay, Module, Stated};
use crate::error::{Error, Exit, Kind};
use crate::fleet::DriverCatalogue;
use crate::render::{Answer, Printer};
use clap::{Args, ValueEnum};
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;
use vsgpu_core::knowledge::{gpus, pairs, releases, vgpu_types};
use vsgpu_core::units::DriverVersion;

/// How the VM gets its GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// A vGPU
    Vgpu,
    /// A whole GPU (DirectPath I/O)
    Passthrough,
}

#[derive(Args)]
#[command(
    after_help = "Examples:\n  vsgpu compat 16.6 535.183.01 --gpu A100 --profile grid_a100-10c\n  vsgpu compat - 550.127.05 --gpu H100 --mode passthrough --mmio 128"
)]
pub(super) struct Compat {
    /// Its vGPU manager: 535.183.04, or a release (16.6), or `-`
    #[arg(value_name = "HOST", required_unless_present = "list_tables")]
    host: Option<String>,
    /// Its driver: 535.183.01, or a release (16.6)
    #[arg(value_name = "GUEST")]
    guest: Option<String>,
    /// Release of ESXi: 8.0.2
    #[arg(long, value_name = "RELEASE")]
    esxi: Option<String>,
    /// A100, "A100 SXM4 80GB", or its PCI id 10de:20f1
    #[arg(long, value_name = "GPU")]
    gpu: Option<String>,
    /// grid_a100-10c (repeat for several)
    #[arg(long, value_name = "NAME")]
    profile: Vec<String>,
    /// vgpu or passthrough
    #[arg(long, value_enum, hide_possible_values = true)]
    mode: Option<Mode>,
    /// grid or data-center: the kind of the guest's driver
    #[arg(long, value_enum, value_name = "KIND", hide_possible_values = true)]
    driver: Option<Kinds>,
    /// CUDA toolkit: 12.4
    #[arg(long, value_name = "RELEASE")]
    cuda: Option<String>,
    /// legacy or nls
    #[arg(long, value_enum, value_name = "WAY", hide_possible_values = true)]
    license: Option<Ways>,
    /// ECC is on
    #[arg(long)]
    ecc: bool,
    /// The VM's MMIO window
    #[arg(long, value_name = "GB")]
    mmio: Option<u64>,
    /// efi or bios
    #[arg(long, value_enum, value_name = "KIND", hide_possible_values = true)]
    firmware: Option<Firmware>,
    /// open or proprietary
    #[arg(long, value_enum, value_name = "KIND", hide_possible_values = true)]
    module: Option<Module>,
    /// NVIDIA's vgpuDriverCatalog.yaml; overrides our table
    #[arg(long, value_name = "FILE")]
    catalogue: Option<PathBuf>,
    #[command(flatten)]
    tables: Tables,
    /// What the answers rest on: our tables and your rows
    #[arg(long)]
    list_tables: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kinds {
    Grid,
    DataCenter,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Firmware {
    Efi,
    Bios,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Ways {
    Legacy,
    Nls,
}

/// Written as a release, and newer than all that the table has of its major: `21.0`, `19.6`. Driver versions have
/// three digits in front.
fn unknown_release(text: &str) -> bool {
    let number = |n: &str| n.parse::<u32>().ok().filter(|_| (1..=2).contains(&n.len()));
    let Some((major, minor)) = text.split_once('.').and_then(|(a, b)| Some((number(a)?, number(b)?))) else {
        return false;
    };
    let minors = releases::all().iter().filter(|r| r.major == major);
    let newest = minors.filter_map(|r| r.name.split('.').nth(1)?.parse::<u32>().ok()).max();
    let newest_major = releases::all().iter().map(|r| r.major).max().unwrap_or_default();
    newest.map_or(major > newest_major, |newest| minor > newest)
}

/// A version, or the one that a release has on this side.
fn version(text: &str, side: &str) -> Result<DriverVersion, Vec<Error>> {
    let of_release =
        releases::named(text).map(|r| if side == "host" { Some(r.host.clone()) } else { r.guest.clone() });
    match (of_release, text.parse()) {
        (Some(Some(version)), _) | (None, Ok(version)) => Ok(version),
        (Some(None), _) => Err(vec![
            Error::new(Kind::Usage, format!("the guest driver of vGPU {text} is not in the table"))
                .hint("name it by its version"),
        ]),
        (None, Err(_)) => {
            let near =
                crate::fleet::range::nearest(text, releases::all().iter().map(|r| r.name)).map(String::from);
            let error = Error::new(
                Kind::Usage,
                format!(
                    "{side}: `{text}` is neither a driver version such as 535.183.04 nor a vGPU release such as 16.6"
                ),
            );
            Err(vec![match near {
                Some(near) => error.hint(format!("did you mean release `{near}`?")),
                None => error,
            }])
        }
    }
}

/// A release of ESXi, and its build where one is named: `8.0.3-24022510`.
fn esxi_and_build(text: &str) -> Result<(String, Option<String>), Vec<Error>> {
    match text
        .rsplit_once('-')
        .filter(|(_, build)| build.len() >= 6 && build.chars().all(|c| c.is_ascii_digit()))
    {
        Some((version, build)) => Ok((esxi(version)?, Some(build.into()))),
        None => Ok((esxi(text)?, None)),
    }
}

/// A release of ESXi.
pub(super) fn esxi(text: &str) -> Result<String, Vec<Error>> {
    advise::release(text).map_err(|why| vec![Error::new(Kind::Usage, format!("--esxi: {why}"))])
}

/// A number of the other side: the pair was typed the wrong way round.
fn swapped(host: &str, guest: Option<&str>) -> Option<Error> {
    let on = |text: &str, side: &str| {
        let version: DriverVersion = text.parse().ok()?;
        Some(if side == "host" {
            !releases::of_host(&version).is_empty()
        } else {
            !releases::of_guest(&version).is_empty()
        })
    };
    let other_side =
        |text: &str, side: &str, other: &str| on(text, side) == Some(false) && on(text, other) == Some(true);
    let of_host = other_side(host, "host", "guest").then_some((host, "the host", "the guest driver"));
    let of_guest =
        guest.filter(|g| other_side(g, "guest", "host")).map(|g| (g, "the guest", "the host's vGPU manager"));
    let (version, asked, really) = of_host.or(of_guest)?;
    let parsed: DriverVersion = version.parse().ok()?;
    let found =
        if really == "the guest driver" { releases::of_guest(&parsed) } else { releases::of_host(&parsed) };
    // A version that is in the table for one side only is no proof that it cannot be the other's.
    let release = found.first().filter(|release| release.guest.is_some())?;
    let error = Error::new(
        Kind::Usage,
        format!("{version} is {really} of vGPU {}, and was named for {asked}", release.name),
    );
    Some(error.hint(format!(
        "the host comes first: vsgpu compat {} {}",
        release.host,
        compat::guest_of(release)
    )))
}

/// The GPU of a name; `None` where no table has it. Boards that differ only in their form (PCIe, SXM) may share it: the
/// profile tells them apart.
fn gpu(wish: &str, profiles: &[String]) -> Result<Option<Gpu>, Vec<Error>> {
    let by_id = wish.strip_prefix("10de:").map(|id| gpus::by_pci(id, None).into_iter().collect::<Vec<_>>());
    let found = by_id.unwrap_or_else(|| gpus::named(wish));
    match found[..] {
        [model] => Ok(Some(Gpu::of_model(model))),
        [] => Ok(None),
        ref several => {
            let of_profile = |m: &&&gpus::Model| {
                profiles
                    .iter()
                    .filter_map(|p| vgpu_types::find(p))
                    .any(|t| m.token.eq_ignore_ascii_case(t.token))
            };
            let whole_wish = |m: &&&gpus::Model| m.token.eq_ignore_ascii_case(wish);
            if let Some(model) = several.iter().find(whole_wish).or_else(|| several.iter().find(of_profile)) {
                return Ok(Some(Gpu::of_model(model)));
            }
            let names: Vec<&str> = several.iter().map(|m| m.name).collect();
            Err(vec![
                Error::new(Kind::Usage, format!("`{wish}` names several GPUs: {}", names.join(", ")))
                    .hint("say more of the name"),
            ])
        }
    }
}

impl Compat {
    pub fn run(self, printer: &Printer) -> CliResult {
        self.tables.lay()?;
        if self.list_tables {
            printer.show(tables::with_catalogue(tables::list(), self.catalogue.as_ref())?);
            return Ok(Exit::Done);
        }
        if let Some(error) = swapped(self.host(), self.guest.as_deref()) {
            return Err(vec![error]);
        }
        self.checked()?;
        let parted = |text: Option<&'_ str>| match text {
            Some(text) if unknown_release(text) => (Some(text.to_string()), None),
            other => (None, other.map(String::from)),
        };
        let (new_host, host) = parted(Some(self.host()).filter(|h| *h != "-"));
        let (new_guest, guest) = parted(self.guest.as_deref());
        let manager = host.as_deref().map(|h| version(h, "host")).transpose()?;
        let guest = guest.as_deref().map(|g| version(g, "guest")).transpose()?;
        let new = [("the host", &new_host), ("the guest", &new_guest)];
        let major = |text: &str| text.split('.').next()?.parse::<u32>().ok();
        let of_host = new_host.as_deref().and_then(major).or_else(|| {
            let manager = manager.as_ref()?;
            let named = releases::of_host(manager).first().map(|r| r.major);
            named.or_else(|| releases::of_branch(manager.branch()).map(|(major, _)| major))
        });
        let of_guest = new_guest.as_deref().and_then(major);
        let newer = of_host.zip(of_guest).filter(|(host, guest)| guest > host);
        let new: Vec<Finding> = new
            .into_iter()
            .filter_map(|(by, release)| Some(compat::release_not_in_table(by, release.as_deref()?)))
            .chain(newer.map(|(host, guest)| compat::newer_than_host(host, guest)))
            .collect();
        let gpu = self.gpu.as_deref().map(|g| gpu(g, &self.profile)).transpose()?.flatten();
        let stranger = self.gpu.as_deref().filter(|_| gpu.is_none()).map(compat::not_in_table);
        let mode = self.mode.unwrap_or(if manager.is_some() || new_host.is_some() {
            Mode::Vgpu
        } else {
            Mode::Passthrough
        });
        let by = |side: &str| side.to_string();
        let catalogue =
            self.catalogue.as_deref().map(DriverCatalogue::read).transpose().map_err(|e| vec![e])?;
        let mut profiles: Vec<Stated<String>> =
            self.profile.iter().map(|p| Stated::new(p.clone(), by("the VM"))).collect();
        let any_vgpu = mode == Mode::Vgpu && profiles.is_empty();
        if any_vgpu {
            // A pair can be asked about without a profile: what is said then is said of every vGPU.
            profiles.push(Stated::new(String::new(), by("the VM")));
        }
        let grid = match (self.driver, mode) {
            (Some(kind), _) => Some(kind == Kinds::Grid),
            (None, Mode::Vgpu) => Some(true),
            (None, Mode::Passthrough) => None,
        };
        let (esxi, esxi_build) = self.esxi.as_deref().map(esxi_and_build).transpose()?.unzip();
        let esxi_build = esxi_build.flatten();
        let combination = Combination {
            about: String::new(),
            esxi: esxi.map(|v| Stated::new(v, by("the host"))),
            esxi_build,
            manager: manager.clone().map(|v| Stated::new(v, by("the host"))),
            guest: guest.clone().map(|version| Stated::new(GuestDriver { version, grid }, by("the guest"))),
            profiles: if mode == Mode::Vgpu { profiles } else { vec![] },
            whole: if mode == Mode::Passthrough { gpu.clone().into_iter().collect() } else { vec![] },
            manager_wished: true,
            passthrough: mode == Mode::Passthrough,
            host_gpus: gpu.clone().filter(|_| mode == Mode::Vgpu).map(|g| vec![g]),
            license: self.license.map(|way| {
                Stated::new(
                    if way == Ways::Nls { LicenseWay::Nls } else { LicenseWay::Legacy },
                    by("the guest"),
                )
            }),
            ecc_on: self.ecc.then(|| Stated::new((), by("the host"))),
            cuda: self.cuda.as_ref().map(|v| Stated::new(v.clone(), by("the guest"))),
            firmware: self.firmware.map(|f| {
                Stated::new(if f == Firmware::Efi { "efi".into() } else { "bios".into() }, by("the VM"))
            }),
            mmio: self.mmio.map(|gib| Stated::new(gib, by("the VM"))),
            module: self.module.map(|m| Stated::new(m, by("the guest"))),
            releases: (releases::named(self.host()), self.guest.as_deref().and_then(releases::named)),
            catalogue: catalogue.map(Arc::new),
            ..Combination::default()
        };
        let findings: Vec<Finding> = compat::judge_one(&combination)
            .into_iter()
            .filter(|f| !(any_vgpu && f.constraint == "profile-exists"))
            .chain(stranger)
            .chain(new)
            .collect();
        let (refused, warnings): (Vec<Finding>, Vec<Finding>) =
            findings.into_iter().partition(Finding::refused);
        let works = refused.is_empty();
        let outside = works && warnings.iter().any(|w| compat::OUTSIDE.contains(&w.constraint));
        let listed =
            |v: &Option<DriverVersion>, found: bool| v.is_none() || found || mode == Mode::Passthrough;
        let known = listed(&manager, !combination.manager_releases().is_empty())
            && listed(&guest, !combination.guest_releases().is_empty());
        // What it is that nobody knows, in the first line.
        let about = |name: &str| compat::ALL.iter().find(|c| c.name == name).map_or("GPU", |c| c.about);
        let doubt = warnings.iter().find(|w| compat::OUTSIDE.contains(&w.constraint));
        let unknown = format!("not known to work ({})", doubt.map_or("", |w| about(w.constraint)));
        let word = match (works, warnings.is_empty()) {
            (true, true) if known => "works",
            (true, true) => "works by its branch (this very version is not in the table)",
            (true, false)
                if warnings.iter().any(|w| w.constraint == compat::DRIVER_PAIR && !w.is_ignorance()) =>
            {
                "not in NVIDIA's list of pairs: do not expect it to work"
            }
            (true, false) if outside => &unknown,
            (true, false) => "may work",
            (false, _) => "does not work",
        };
        let newer =
            |release: &Option<String>, what: &str| release.as_ref().map(|r| format!("{what} of vGPU {r}"));
        let named =
            [newer(&new_host, "vGPU manager"), newer(&new_guest, "guest driver")].into_iter().flatten();
        let known = Some(described(manager.as_ref(), guest.as_ref(), gpu.as_ref())).filter(|d| !d.is_empty());
        let on = combination.esxi.as_ref().map(|esxi| format!("ESXi {}", esxi.value));
        let mut text = format!("{word}: {}", named.chain(known).chain(on).collect::<Vec<_>>().join(", "));
        if let (true, Some(rests)) = (works, rests_on(&combination)) {
            text += &format!("\n  {rests}");
        }
        let notes = ended(&combination);
        text += &notes.iter().map(|note| format!("\n  {note}")).collect::<String>();
        if let (Some(manager), None) = (&manager, &guest) {
            text += &self.partners(manager);
        }
        let answer = json!({
            "works": if outside { json!("unknown") } else { json!(works) },
            "host": manager.as_ref().map(|v| json!({ "version": v.to_string(), "releases": releases::of_host(v).iter().map(|r| r.name).collect::<Vec<_>>() })),
            "guest": guest.as_ref().map(|v| json!({ "version": v.to_string(), "releases": releases::of_guest(v).iter().map(|r| r.name).collect::<Vec<_>>() })),
            "refused": refused,
            "warnings": warnings,
            "notes": notes,
        });
        let (word, exit) = match (works, outside) {
            (true, false) => ("works", Exit::Done),
            (true, true) => ("unknown", Exit::Not(Kind::Differs)),
            (false, _) => ("does-not-work", Exit::Not(Kind::Blocked)),
        };
        let names = vec![word.to_string()];
        printer.show(Answer { names, ..Answer::new(answer, text) });
        printer.warnings(&warnings);
        let errors: Vec<Error> = refused.iter().map(compat::error).collect();
        printer.errors(&errors);
        Ok(exit)
    }
}

impl Compat {
    fn host(&self) -> &str {
        self.host.as_deref().unwrap_or("-")
    }

    /// What would be ignored is said instead.
    fn checked(&self) -> Result<(), Vec<Error>> {
        let wrong = |why: String, hint: &str| Err(vec![Error::new(Kind::Usage, why).hint(hint)]);
        if self.mode == Some(Mode::Passthrough) && !self.profile.is_empty() {
            return wrong(
                "a whole GPU has no vGPU profile".into(),
                "leave `--profile` or `--mode passthrough` out",
            );
        }
        let whole = self.mode == Some(Mode::Passthrough) || self.host() == "-" && self.mode.is_none();
        if (self.mmio.is_some() || self.firmware.is_some())
            && !(whole && self.gpu.is_some())
            && self.profile.is_empty()
        {
            return wrong(
                "`--mmio` and `--firmware` are about a whole GPU, or about a vGPU by its profile".into(),
                "add `--mode passthrough --gpu NAME`, or `--profile NAME`",
            );
        }
        match &self.cuda {
            Some(cuda) if vsgpu_core::knowledge::cuda::minimum(cuda).is_none() => {
                wrong(format!("no CUDA toolkit of the table is called `{cuda}`"), "name it as 12.4 or 12.4.1")
            }
            _ => Ok(()),
        }
    }

    /// Drivers that go with a host, newest first.
    fn partners(&self, manager: &DriverVersion) -> String {
        let own = releases::named(self.host()).or_else(|| releases::of_host(manager).into_iter().next());
        let Some(major) =
            own.map(|r| r.major).or_else(|| releases::of_branch(manager.branch()).map(|(m, _)| m))
        else {
            return String::new();
        };
        let row = |r: &&releases::Release| format!("  {:<6} guest driver {}", r.name, compat::guest_of(r));
        let of_major = |m: &u32| {
            releases::all().iter().rev().filter(|r| r.major == *m && !r.withdrawn).collect::<Vec<_>>()
        };
        let lists = pairs::guests_of(major)
            .into_iter()
            .map(|m| of_major(&m).iter().map(row).collect::<Vec<_>>().join("\n"));
        let on: Vec<&str> = own
            .map(|r| releases::packaged_for(r.name).iter().map(|(major, _)| *major).collect())
            .unwrap_or_default();
        let on =
            if on.is_empty() { String::new() } else { format!("\npackaged for vSphere {}", on.join(", ")) };
        format!("\nguests that go with it:\n{}{on}", lists.collect::<Vec<_>>().join("\n"))
    }
}

fn described(manager: Option<&DriverVersion>, guest: Option<&DriverVersion>, gpu: Option<&Gpu>) -> String {
    let host = manager.map(|v| format!("vGPU manager {}", compat::named(v, &releases::of_host(v))));
    // In passthrough a release says nothing: any driver that knows the GPU does.
    let guest = guest.map(|v| {
        format!(
            "guest driver {}",
            if manager.is_some() { compat::named(v, &releases::of_guest(v)) } else { v.to_string() }
        )
    });
    host.into_iter().chain(guest).chain(gpu.map(Gpu::shown)).collect::<Vec<_>>().join(", ")
}

/// Branches of this pair that NVIDIA has ended, and one that lives.
fn ended(c: &Combination) -> Vec<String> {
    let day = time::OffsetDateTime::UNIX_EPOCH + std::time::Duration::from_secs(now());
    let today = format!("{}-{:02}", day.year(), u8::from(day.month()));
    let is_over = |r: &&releases::Release| !r.eol.is_empty() && *r.eol < *today;
    let mut all: Vec<&releases::Release> =
        c.manager_releases().into_iter().chain(c.guest_releases()).filter(is_over).collect();
    all.sort_by_key(|r| r.major);
    all.dedup_by_key(|r| r.major);
    let lives = releases::all().iter().filter(|r| *r.eol > *today).max_by_key(|r| r.eol);
    let lives = lives.map_or(String::new(), |r| format!("; {}.x is supported until {}", r.major, r.eol));
    all.iter().map(|r| format!("vGPU {}.x has ended ({}): no more fixes{lives}", r.major, r.eol)).collect()
}

/// What a pair that works rests on.
fn rests_on(c: &Combination) -> Option<String> {
    let (hosts, guests) = (c.manager_releases(), c.guest_releases());
    let pair = hosts
        .iter()
        .flat_map(|h| guests.iter().map(move |g| (h.major, g.major)))
        .find_map(|(h, g)| pairs::rule(h, g))?;
    let limited = if pair.says == pairs::Says::Limited { "; with what both releases support" } else { "" };
    Some(format!("{}{limited}", pair.basis))
}
