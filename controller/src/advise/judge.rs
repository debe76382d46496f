//! The rules: which need goes with which way, from which release on. A rule that rests on one weak source or on our own
//! judgement is marked, and shown as uncertain.
//!
//! Sources, by rule: VMware's pages on vMotion of vGPU VMs (6.7, 7.0, 8.0), suspend and resume (6.5 to 6.7U1), DirectPath
//! and snapshots; Broadcom KB 313479 and 88271 (DRS, maintenance mode); NVIDIA's vGPU and AI Enterprise guides (MIG,
//! scheduling, licensing, Windows); VMware's comparison of MIG and time slices (7.0U2); `gpus.tsv`, `vgpu_types.tsv`.

use super::fragment;
use super::kind::Kind;
use super::question::{Guest, License, Need, Question, Workload};
use vsgpu_core::knowledge::gpus::{Model, OpenModule};
use vsgpu_core::knowledge::performance::{self, Share};
use vsgpu_core::knowledge::placement;
use vsgpu_core::knowledge::products::Product;
use vsgpu_core::knowledge::vgpu_types::{self, VgpuType};
use vsgpu_core::words::counted;

/// One way, judged.
#[derive(Clone, Debug)]
pub struct Way {
    pub way: Kind,
    pub fits: bool,
    /// It rests on good sources.
    pub certain: bool,
    /// Why, or why not; the deciding one first.
    pub reasons: Vec<String>,
    pub gives_up: Vec<&'static str>,
    /// What must be bought, changed or checked.
    pub needs: Vec<String>,
    /// Published figures; none without a source.
    pub share: Option<Share>,
    /// The vGPU type.
    pub profile: Option<&'static VgpuType>,
    /// VMs that one GPU serves.
    pub per_gpu: u64,
    /// A fleet file to begin with.
    pub fleet: String,
}

/// The answer, best way first.
#[derive(Clone, Debug)]
pub struct Advice {
    pub ways: Vec<Way>,
    /// The smallest change that makes a way fit, where none does.
    pub nearest: Option<String>,
}

/// Shares of bare metal that are assumed where nothing is published, in percent. They decide `--max-loss` and are shown
/// to nobody as a figure.
const ASSUMED_VGPU: f64 = 95.0;
const ASSUMED_MIG: f64 = 90.0;
const ASSUMED_NETWORK: f64 = 90.0;

/// vMotion on 6.7U1 and U2: VMware's page first said 12 GB, later 24 GB; the smaller one is safe.
const EARLY_VMOTION_MIB: u64 = 12 * 1024;

/// Releases of vGPU that have packages for a vSphere version: first and last; from package lists that end in June 2025
/// (facts: nvidia 1).
const PACKAGES: [(&str, f64, f64); 7] = [
    ("5.5", 4.5, 6.4),
    ("6.0", 4.5, 6.4),
    ("6.5", 4.5, 14.1),
    ("6.7", 6.0, 14.1),
    ("7.0", 10.2, 18.1),
    ("8.0", 15.0, 99.0),
    ("9", 18.3, 99.0),
];

#[derive(Default)]
struct Verdict {
    /// Reasons against it, with how sure each is.
    no: Vec<(String, bool)>,
    yes: Vec<String>,
    needs: Vec<String>,
    doubtful: bool,
}

impl Verdict {
    fn refuse(&mut self, why: impl Into<String>) {
        self.no.push((why.into(), true));
    }
    fn doubt(&mut self, why: impl Into<String>) {
        self.no.push((why.into(), false));
    }
    fn need(&mut self, what: impl Into<String>) {
        self.needs.push(what.into());
    }
}

/// Judges the four ways.
pub fn advise(question: &Question) -> Advice {
    let mut ways: Vec<Way> = Kind::ALL.map(|way| judged(question, way)).into();
    let order = ranking(question);
    ways.sort_by_key(|way| (!way.fits, order.iter().position(|kind| *kind == way.way)));
    let nearest = if ways.iter().any(|w| w.fits) { None } else { nearest(question) };
    Advice { ways, nearest }
}

/// Best first, whatever fits of them.
fn ranking(q: &Question) -> [Kind; 4] {
    use Kind::{Network, Passthrough, VgpuMig, VgpuTimeSliced};
    match () {
        () if q.needs(Need::NoGpuInHost) => [Network, VgpuTimeSliced, VgpuMig, Passthrough],
        () if q.users > 1 && (q.needs(Need::Isolation) || q.workload == Workload::Inference) => {
            [VgpuMig, VgpuTimeSliced, Passthrough, Network]
        }
        () if q.users > 1 || q.moves() => [VgpuTimeSliced, VgpuMig, Passthrough, Network],
        () => [Passthrough, VgpuTimeSliced, VgpuMig, Network],
    }
}

fn judged(q: &Question, way: Kind) -> Way {
    let mut v = Verdict::default();
    let mut profile = None;
    let mut per_gpu = 1;
    match way {
        Kind::Passthrough => whole(q, &mut v),
        Kind::VgpuTimeSliced | Kind::VgpuMig => {
            let found = vgpu(q, way == Kind::VgpuMig, &mut v);
            profile = found.map(|(vgpu, _)| vgpu);
            per_gpu = found.map_or(1, |(_, n)| n);
        }
        Kind::Network => (per_gpu, profile) = network(q, &mut v),
    }
    let share = published(q, way);
    loss(q, way, share.as_ref(), &mut v);
    let fits = v.no.is_empty();
    let certain = if fits { !v.doubtful } else { v.no.iter().any(|(_, sure)| *sure) };
    let mut no = v.no;
    // What is sure is said first.
    no.sort_by_key(|(_, sure)| !sure);
    let reasons = if fits { v.yes } else { no.into_iter().map(|(why, _)| why).collect() };
    let fleet = fragment::of(q, way, profile);
    Way {
        way,
        fits,
        certain,
        reasons,
        gives_up: gives_up(q, way),
        needs: v.needs,
        share,
        profile,
        per_gpu,
        fleet,
    }
}

/// GPUs of one server, at most: what can go to one VM.
const MOST_GPUS: u64 = 8;

/// Boards that can be joined by NVLink.
fn has_nvlink(model: &Model) -> bool {
    let name = model.name;
    name.contains("SXM")
        || ["A100", "A30", "A40", "H100", "H200", "V100", "A6000", "RTX 6000 passive", "RTX 8000"]
            .iter()
            .any(|board| name.contains(board))
}

/// A board with displays of its own: graphics in passthrough work without RTX vWS.
fn has_display(q: &Question) -> bool {
    match q.model() {
        Some(model) => {
            model.name.starts_with("RTX") && !model.name.contains("Server")
                || model.name.starts_with("Quadro")
        }
        None => q
            .gpu
            .as_deref()
            .map(str::to_lowercase)
            .is_some_and(|name| name.contains("rtx") || name.contains("geforce")),
    }
}

/// One of somebody else: nothing here is about it.
fn others_gpu(q: &Question, v: &mut Verdict) -> bool {
    if q.of_others() {
        v.refuse("vsgpu and these ways are for NVIDIA GPUs");
    }
    q.of_others()
}

fn whole(q: &Question, v: &mut Verdict) {
    if others_gpu(q, v) {
        return;
    }
    if q.needs(Need::NoGpuInHost) {
        v.refuse("the host has no GPU");
    }
    if q.users > 1 {
        v.refuse(format!("one VM owns the whole GPU; {} are to share it", q.users));
    }
    for (need, why) in [
        (Need::Vmotion, "a VM with a DirectPath device is not moved while it runs, fixed or dynamic"),
        (Need::Drs, "DRS places it at power-on at most, and never moves it"),
        (Need::Suspend, "a VM with a DirectPath device cannot be suspended"),
        (Need::Snapshots, "no snapshots of a running VM with a DirectPath device"),
    ] {
        if q.needs(need) {
            v.refuse(why);
        }
    }
    if q.needs(Need::Ha) && !q.esxi_at_least("7.0") {
        v.refuse("before 7.0 there is only fixed DirectPath, which HA cannot place on another host");
    }
    if q.workload == Workload::Graphics && !has_display(q) {
        if !display_license(q) {
            v.refuse("graphics on a data-center GPU need an RTX vWS license, in passthrough, too");
        }
        if q.model().is_some_and(|m| !vgpu_types::of_token(m.token).any(|t| t.series == "Q")) {
            v.doubtful = true;
            v.need("this board is made for computing: for graphics L40S, L4, A40 or A16 fit better");
        }
    }
    let several = q.gpus_per_vm();
    if several > MOST_GPUS {
        v.refuse(format!("one VM would need {several} GPUs for its memory; a server has {MOST_GPUS}"));
    }
    let linked = q.model().is_some_and(has_nvlink);
    v.yes.push(match several {
        1 => "one VM has the whole GPU, and nobody beside it".into(),
        n if linked => format!("one VM has {n} GPUs, with their NVLink where all of a link are given to it"),
        n => format!("one VM has {n} GPUs"),
    });
    if q.model().is_some_and(|m| m.name.contains("SXM")) {
        v.doubtful = true;
        v.need("systems with NVSwitch (HGX): NVIDIA does not support passthrough there on vSphere (AI Enterprise 8.0); full-size vGPUs instead");
    }
    if q.model().is_some_and(|m| m.open_module == OpenModule::Required) {
        v.need("the open kernel module: `kernel-module: open` of the driver");
    }
    match (q.gpu.as_deref(), q.model()) {
        (Some(name), None) => {
            v.doubtful = true;
            v.need(format!(
                "`{name}` is in no table of ours: check server and GPU against the compatibility guide"
            ));
        }
        (_, Some(model)) => {
            v.doubtful |= !meets(q, model);
            let new =
                matches!(model.architecture, "Ampere" | "Ada" | "Hopper" | "Blackwell" | "Blackwell Ultra");
            if model.bar1_mib.map_or(new, |mib| mib > 16 * 1024) {
                v.need("above-4G decoding in the BIOS; EFI firmware and a 64-bit MMIO window in the VM (vsgpu computes it)");
            }
        }
        (None, None) => {}
    }
    v.need("VT-d or AMD-Vi on in the BIOS; server and GPU on the compatibility guide");
    v.need("a reboot of the host when the GPU is given to VMs; all memory of the VM reserved");
    if q.needs(Need::Ha) {
        v.need("Dynamic DirectPath I/O instead of a fixed address");
    }
    match q.workload {
        Workload::Graphics if has_display(q) => {
            v.doubtful = true;
            v.need(
                "license: RTX vWS where the guest is used remotely with it; none for the board's own display",
            );
        }
        Workload::Graphics => v.need("license: RTX vWS (formerly vDWS)"),
        _ => v.need("no NVIDIA license for compute; the data-center driver in the guest"),
    }
}

/// RTX vWS, or nothing said.
fn display_license(q: &Question) -> bool {
    matches!(q.license.nvidia, None | Some(Some(Product::Workstation)))
}

/// Series of profiles that license and workload mean.
fn series(q: &Question, token: Option<&str>) -> &'static str {
    match q.license.nvidia {
        Some(Some(Product::Workstation)) => "Q",
        Some(Some(Product::Compute)) => "C",
        Some(Some(Product::Pc)) => "B",
        Some(Some(Product::Applications)) => "A",
        _ if !q.computes() => "Q",
        // Maxwell has no C types.
        _ if token.is_some_and(|t| !vgpu_types::of_token(t).any(|v| v.series == "C")) => "Q",
        _ => "C",
    }
}

/// Both ways of vGPU: the type for each VM, and how many a GPU holds.
fn vgpu(q: &Question, mig: bool, v: &mut Verdict) -> Option<(&'static VgpuType, u64)> {
    if others_gpu(q, v) {
        return None;
    }
    let model = q.model();
    if q.needs(Need::NoGpuInHost) {
        v.refuse("the host has no GPU");
    }
    match (q.gpu.as_deref(), model) {
        (Some(name), None) if name.to_lowercase().contains("geforce") => {
            v.refuse(if mig {
                "GeForce has no MIG"
            } else {
                "there is no vGPU on GeForce, with any license"
            });
        }
        (Some(name), None) => {
            v.doubt(format!("`{name}` is in no table of ours: look at NVIDIA's list of GPUs for vGPU"));
        }
        (_, Some(model)) if mig && !model.mig => v.refuse(format!("the {} has no MIG", model.name)),
        (_, Some(model)) if model.vgpu_first == Some("cloud only") => {
            v.refuse(format!("there is no vGPU package for the {} outside clouds", model.name));
        }
        _ => {}
    }
    if q.license.none() {
        v.refuse("a vGPU needs a license: without one it is slowed down, and CUDA ends");
    }
    if q.license.standard {
        // No source that can be read says it.
        v.doubtful = true;
        v.need("vSphere Standard: vGPU is said to want Enterprise Plus, VVF or VCF; check with your license first");
    }
    if mig && !q.esxi_at_least("7.0.2") {
        v.refuse("MIG on ESXi begins with 7.0 U2");
    }
    if let Some(esxi) = q.esxi.as_deref().filter(|_| packages(q).is_none()) {
        v.refuse(format!("there is no package of the vGPU manager for ESXi {esxi}"));
    }
    if let Some(model) = model {
        released(q, model, v);
    }
    moving(q, mig, v);
    if q.needs(Need::Isolation) && q.users > 1 && !mig {
        v.refuse("time slices keep memory apart, and share the compute time");
    }
    let series = series(q, model.map(|m| m.token));
    if q.guest == Guest::Windows && series == "C" {
        match (q.license.old_compute, q.esxi_at_least("8.0")) {
            (false, true) => {
                v.doubtful = true;
                v.need("Windows with C profiles: native CUDA programs only, no containers; AI Enterprise 5 or newer");
            }
            _ => v.refuse("vCS (C profiles) is for Linux guests here; for Windows: RTX vWS with a Q profile"),
        }
    }
    if q.computes() && matches!(series, "A" | "B") {
        v.refuse(format!("{series} profiles have no CUDA: it takes a C or Q profile"));
    }
    if !q.computes() && series == "C" {
        v.refuse("C profiles have no display for graphics: RTX vWS with a Q profile");
    }
    v.need(match series {
        "Q" => "license: RTX vWS (formerly vDWS)",
        "B" => "license: NVIDIA vPC",
        "A" => "license: NVIDIA vApps",
        _ => "license: NVIDIA AI Enterprise / vGPU for Compute (formerly vCS)",
    });
    v.need("vSphere Enterprise Plus, VVF or VCF: check with your license");
    v.need("host: vGPU manager of a release for its ESXi, graphics type SharedPassthru; guest: the -grid driver of that release");
    v.need(
        "BIOS: VT-d or AMD-Vi, SR-IOV for Ampere and newer, above-4G decoding; all memory of the VM reserved",
    );
    if mig {
        v.need("MIG mode on, on an empty GPU");
    }
    let found = match model {
        Some(model) => profile(q, model, series, mig, v),
        None => None,
    };
    let found = if q.gpu.is_none() { example(q, series, mig, v) } else { found };
    if q.gpu.is_none() {
        v.need(match (mig, q.computes()) {
            (true, true) => "a GPU with MIG: A30, A100, H100, H200, RTX PRO 6000 Blackwell",
            (true, false) => "a GPU with graphics on MIG: RTX PRO 6000 Blackwell",
            (false, true) => "a GPU of NVIDIA's vGPU list: L4, L40S, A100, H100",
            (false, false) => "a GPU with Q profiles: L4, L40S, A16, A40",
        });
        v.doubtful |= mig && !q.computes();
    }
    found
}

/// No GPU is chosen: the first of these boards that does it shows how it would be.
fn example(q: &Question, series: &str, mig: bool, v: &mut Verdict) -> Option<(&'static VgpuType, u64)> {
    let boards: &[&str] = match (mig, q.computes()) {
        (true, true) => &["A100-80", "H100-80", "H200"],
        (true, false) => &["RTX PRO 6000"],
        (false, true) => &["L40S", "A100-80", "H200"],
        (false, false) => &["L40S", "A16"],
    };
    let mut last = Verdict::default();
    for board in boards {
        let chosen = Question { gpu: Some((*board).into()), ..q.clone() };
        let Some(model) = chosen.model() else { continue };
        let mut of_board = Verdict::default();
        let found = profile(&chosen, model, series, mig, &mut of_board);
        if of_board.no.is_empty() && found.is_some() {
            v.yes.extend(of_board.yes.into_iter().map(|why| format!("with the {}, say: {why}", model.name)));
            return found;
        }
        last = of_board;
    }
    v.no.extend(last.no);
    None
}

/// vMotion, DRS, HA, suspend, snapshots of a VM with a vGPU.
fn moving(q: &Question, mig: bool, v: &mut Verdict) {
    let first = if mig { "7.0.2" } else { "6.7" };
    if q.needs(Need::Vmotion) {
        if !q.esxi_at_least("6.7.1") {
            v.refuse("vMotion of a vGPU VM begins with 6.7 U1");
        } else {
            v.need(
                "vCenter: vgpu.hotmigrate.enabled = true; large memory needs a higher stun limit (8.0 U2)",
            );
        }
    }
    if q.needs(Need::Drs) {
        if !q.esxi_at_least("8.0.2") {
            v.refuse("before 8.0 U2 DRS places vGPU VMs at power-on, and does not move them");
        } else {
            v.need("cluster: PassthroughDrsAutomation=1, LBMaxVmotionPerHost=1 (Broadcom KB 313479)");
        }
    }
    if q.needs(Need::Suspend) && !q.esxi_at_least(first) {
        v.refuse("suspend and resume of a vGPU VM begin with 6.7");
    }
    if q.needs(Need::Snapshots) {
        if !q.esxi_at_least(first) {
            v.doubt("snapshots of a running vGPU VM: no release before 6.7 says that it can");
        } else {
            v.need("snapshots with memory only where the host says memorySnapshotSupported");
        }
    }
    // No source speaks of MIG here; nor of HA before 7.0.
    v.doubtful |= mig && (q.moves() || q.needs(Need::Ha));
    v.doubtful |= q.needs(Need::Ha) && !q.esxi_at_least("7.0");
}

fn number(release: &str) -> Option<f64> {
    let text = release.split(['?', ' ', '/', '(']).next()?;
    let (major, minor) = text.split_once('.')?;
    let minor = if minor == "x" { None } else { Some(minor.parse::<u32>().ok()?) };
    Some(f64::from(major.parse::<u32>().ok()?) + f64::from(minor.unwrap_or(0).min(99)) / 100.0)
}

/// Major and minor as one number that grows: 18.3 is 18.03.
fn of_package(release: f64) -> f64 {
    let major = release.trunc();
    major + ((release - major) * 10.0).round() / 100.0
}

/// Packages for this ESXi, by the numbers of `number`.
fn packages(q: &Question) -> Option<(f64, f64)> {
    let esxi = q.esxi.as_deref()?;
    let (_, first, last) = PACKAGES.iter().find(|(version, ..)| esxi.starts_with(version))?;
    Some((of_package(*first), of_package(*last)))
}

/// Whether a vGPU release for this GPU has a package for this ESXi; yes where that is not known.
fn meets(q: &Question, model: &Model) -> bool {
    let Some((first, last)) = packages(q) else { return true };
    let from = model.vgpu_first.and_then(number).unwrap_or(0.0);
    // Releases from 20.0 on want 8.0 U3.
    if from >= 20.0 && !q.esxi_at_least("8.0.3") {
        return false;
    }
    let until = model.vgpu_last.and_then(number).map_or(999.0, |n| n.trunc() + 0.99);
    from <= last && until >= first
}

fn released(q: &Question, model: &Model, v: &mut Verdict) {
    if meets(q, model) {
        // The table's ends of support are weak.
        v.doubtful |= model.vgpu_last.is_some_and(|last| last.contains('?') || !last.starts_with("20"))
            && q.esxi.as_deref().is_some_and(|e| e.starts_with('8') || e.starts_with('9'));
        return;
    }
    let esxi = q.esxi.as_deref().unwrap_or_default();
    let why = format!(
        "vGPU of the {} is in releases {} to {}, and ESXi {esxi} has packages of others",
        model.name,
        model.vgpu_first.unwrap_or("?").split(' ').next().unwrap_or_default(),
        model.vgpu_last.unwrap_or("?")
    );
    // First releases are known better than last ones.
    let too_new =
        packages(q).zip(model.vgpu_first.and_then(number)).is_some_and(|((_, last), from)| from > last);
    if too_new && model.architecture != "Blackwell" { v.refuse(why) } else { v.doubt(why) }
}

/// The smallest type that is large enough and of which a GPU holds enough; without a size the largest one.
fn profile(
    q: &Question,
    model: &'static Model,
    series: &str,
    mig: bool,
    v: &mut Verdict,
) -> Option<(&'static VgpuType, u64)> {
    if mig && !model.mig {
        return None;
    }
    let several = q.gpus_per_vm();
    if several > 1 {
        if several > MOST_GPUS {
            v.refuse(format!("one VM would need {several} GPUs for its memory; a server has {MOST_GPUS}"));
        }
        if q.users > 1 {
            v.refuse(format!("one VM alone needs {several} GPUs for its memory"));
        }
        if mig {
            v.refuse("one slice is never larger than a GPU, and slices have no NVLink");
            return None;
        }
        if !q.esxi_at_least("6.7.3") {
            v.refuse("several vGPUs in one VM begin with 6.7 U3");
        }
    }
    let wanted = if several > 1 { 0 } else { q.memory.map_or(0, |m| m.mib) };
    let mut types: Vec<(&'static VgpuType, u64)> = vgpu_types::of_token(model.token)
        .filter(|t| t.mig == mig && t.series == series && t.name.ends_with(series))
        .map(|t| (t, most(q, t)))
        .collect();
    // A slice of one's own before one that is shared by turns; the smaller one first.
    let shares = |t: &VgpuType| t.mig && placement::instance_of(t).is_some_and(|(_, share)| share > 1);
    types.sort_by_key(|(t, _)| t.size_mib);
    if types.is_empty() {
        v.refuse(format!("the {} has no {series} profiles{}", model.name, if mig { " on MIG" } else { "" }));
        return None;
    }
    let enough = |(_, n): &&(&'static VgpuType, u64)| *n >= q.users;
    let found = match (several, q.memory) {
        (2.., _) => types.last(),
        // The larger share of compute where two have the same memory.
        (_, Some(_)) => {
            let large = || types.iter().filter(|(t, _)| t.size_mib >= wanted).filter(enough);
            let own = || large().filter(|(t, _)| !shares(t));
            let size = own().map(|(t, _)| t.size_mib).min();
            own()
                .filter(|(t, _)| Some(t.size_mib) == size)
                .max_by_key(|(t, _)| t.mig_slices)
                .or_else(|| large().next())
        }
        (_, None) => {
            let own = types.iter().filter(|(t, _)| !shares(t)).rfind(enough);
            own.or_else(|| types.iter().rfind(enough))
        }
    };
    let found = found.copied();
    let Some((vgpu, n)) = found else {
        let large = types.iter().find(|(t, _)| t.size_mib >= wanted);
        v.refuse(match large {
            Some((t, n)) => {
                let times = if *n == 1 { "once".to_string() } else { format!("{n} times") };
                let board = match model.per_board {
                    1 => String::new(),
                    gpus => format!(" (a board has {gpus} GPUs, so {} times)", n * gpus),
                };
                format!(
                    "{} fits {times} on a GPU{board}, {} are wanted; GPU memory is never given twice",
                    t.name.trim_start_matches("NVIDIA ").trim_start_matches("GRID "),
                    q.users
                )
            }
            None => format!("no {series} profile of the {} has that much memory", model.name),
        });
        return None;
    };
    if q.needs(Need::Vmotion) && vgpu.size_mib > EARLY_VMOTION_MIB && !q.esxi_at_least("6.7.3") {
        v.refuse("on 6.7 U1 and U2 vMotion of large profiles may run into its time limit; 6.7 U3 lifts it");
    }
    let name = vgpu.name.trim_start_matches("NVIDIA ").trim_start_matches("GRID ");
    v.yes.push(match (several, mig) {
        (2.., _) => format!("{several} x {name} in one VM"),
        (_, true) if shares(vgpu) => {
            v.doubtful = true;
            format!(
                "{name}: {n} on a GPU; several share an instance by turns, apart from the others in hardware"
            )
        }
        (_, true) if n == 1 => format!("{name}: one on a GPU, its slices are its own, in hardware"),
        (_, true) => format!("{name}: {n} on a GPU, each with slices of its own, in hardware"),
        (_, false) if n == 1 => format!("{name}: the whole memory of the GPU as one vGPU"),
        (_, false) => format!("{name}: {n} on a GPU, each with memory of its own, compute time by turns"),
    });
    if vgpu.size_mib < 2048 {
        v.need("the guest sees less memory than the profile's name says");
    }
    if q.esxi.is_none() {
        match model.vgpu_first.and_then(number) {
            Some(first) if first > of_package(18.1) => v.need("ESXi 8.0 or newer, as its vGPU packages say"),
            _ if mig => v.need("ESXi 7.0 U2 or newer"),
            _ => {}
        }
    }
    v.doubtful |= model.vgpu_first.is_some_and(|first| first.contains("uncertain"));
    Some((vgpu, if several > 1 { 1 } else { n }))
}

/// How many of a type a GPU holds so that what is asked of them is kept.
fn most(q: &Question, vgpu: &VgpuType) -> u64 {
    if !vgpu.mig {
        return placement::most_of_one_size(vgpu);
    }
    let Some((instance, share)) = placement::instance_of(vgpu) else { return vgpu.max.unwrap_or(1) };
    // vGPUs of one instance take turns: that is no isolation.
    if q.needs(Need::Isolation) { instance.max } else { instance.max * share }
}

/// How many VMs one GPU serves.
fn network(q: &Question, v: &mut Verdict) -> (u64, Option<&'static VgpuType>) {
    if q.workload == Workload::Graphics {
        v.refuse("there is no display over the network, no OpenGL and no DirectX");
    }
    if q.guest == Guest::Windows {
        v.refuse("the client is for Linux guests");
    }
    if q.gpus_per_vm() > 1 {
        v.refuse("NVLink and NCCL do not go over the network");
    }
    if others_gpu(q, v) {
        return (1, None);
    }
    if q.needs(Need::Drs) && q.license.standard {
        v.need("vSphere Standard is said to have no DRS: check with your license first");
    }
    if q.needs(Need::Ha) && !q.esxi_at_least("7.0") {
        v.doubt("before 7.0 the GPU server is bound to its host");
    }
    v.doubtful = !q.needs(Need::NoGpuInHost);
    v.yes.push("the VM needs no GPU in its host, and moves like any other".into());
    if q.moves() || q.needs(Need::Ha) {
        v.need("a program that uses the GPU survives a pause of 20 s at most; suspend and snapshots between jobs");
    }
    v.need("a VM with the GPU somewhere (the GPU server), which does not move; 10 Gb/s and a round trip below 1 ms, better 50 us");
    v.need("the engine's files, built from its source; vsgpu brings gateway, leases and proof");
    if q.users <= 1 {
        return (1, None);
    }
    if q.workload == Workload::Development && !q.needs(Need::Isolation) {
        v.yes.push("users take turns: one has the whole GPU for as long as a program runs".into());
        return (1, None);
    }
    // At once: the GPU server has vGPUs, one for each lease. What that needs is what the vGPU ways need.
    let elsewhere = Question {
        needs: q.needs.iter().copied().filter(|n| *n == Need::Isolation).collect(),
        max_loss: None,
        ..q.clone()
    };
    for mig in [false, true] {
        let mut of_server = Verdict::default();
        let found = vgpu(&elsewhere, mig, &mut of_server);
        if of_server.no.is_empty() {
            v.yes.push(format!(
                "the GPU server has {} vGPUs, one for each VM that works at the time",
                q.users
            ));
            v.doubtful = true;
            v.needs.extend(of_server.needs.into_iter().map(|need| format!("GPU server: {need}")));
            return (found.map_or(1, |(_, n)| n), found.map(|(vgpu, _)| vgpu));
        }
    }
    v.refuse(
        "a whole GPU goes to one VM at a time, these run at once, and vGPUs for the GPU server do not fit",
    );
    (1, None)
}

fn published(q: &Question, way: Kind) -> Option<Share> {
    let several = q.users > 1;
    let workload = q.workload.word();
    match way {
        // The rule of thumb is not split by workload.
        Kind::Passthrough if q.computes() => performance::share(workload, way.word(), false)
            .or_else(|| performance::share(Workload::Training.word(), way.word(), false)),
        // Measured on these two only.
        Kind::VgpuMig
            if !q.model().is_some_and(|m| m.name.starts_with("A100") || m.name.starts_with("A30")) =>
        {
            None
        }
        _ => performance::share(workload, way.word(), several),
    }
}

/// Whether so much is lost as may be.
fn loss(q: &Question, way: Kind, share: Option<&Share>, v: &mut Verdict) {
    let Some(may) = q.max_loss else { return };
    let least = 100.0 - may;
    let assumed = match way {
        Kind::Passthrough | Kind::VgpuTimeSliced => ASSUMED_VGPU,
        Kind::VgpuMig => ASSUMED_MIG,
        Kind::Network => ASSUMED_NETWORK,
    };
    let typical = share.map_or(assumed, |s| s.typical);
    // The largest slice of MIG is a little less than a GPU.
    let typical = if way == Kind::VgpuMig && q.users == 1 { ASSUMED_MIG } else { typical };
    // Figures that are published are no finer than a percent.
    if typical.round() < least {
        v.refuse(match share {
            Some(s) => format!(
                "{:.0} % of bare metal is typical of what is published, {least:.0} % are wanted",
                s.typical
            ),
            None => format!("nothing published shows {least:.0} % of bare metal"),
        });
        return;
    }
    match share {
        Some(s) if s.low < least => {
            v.need(format!("measure first: {:.0} % was seen at worst, {least:.0} % are wanted", s.low));
        }
        Some(_) => {}
        None => {
            v.doubtful = true;
            v.need("measure first: no figure is published for this");
        }
    }
}

fn gives_up(q: &Question, way: Kind) -> Vec<&'static str> {
    let linked = q.model().is_none_or(has_nvlink);
    let of_sharing = ["guarantee", "parts of a GPU", "neighbours"];
    let mut all = all_given_up(way);
    all.retain(|what| {
        (linked || !what.contains("NVLink"))
            && (q.users > 1 || !of_sharing.iter().any(|word| what.contains(word)))
            && !(what.starts_with("graphics") && way == Kind::VgpuMig && !q.computes())
    });
    all
}

fn all_given_up(way: Kind) -> Vec<&'static str> {
    match way {
        Kind::Passthrough => {
            vec!["sharing", "vMotion", "moves by DRS", "suspend", "snapshots while it runs"]
        }
        Kind::VgpuTimeSliced => vec![
            "a guarantee of compute time (but with the scheduler equal-share or fixed-share)",
            "unified memory on parts of a GPU",
            "NVLink on parts of a GPU",
        ],
        Kind::VgpuMig => vec![
            "idle neighbours' compute",
            "NVLink",
            "up to an eighth of the GPU that no slice uses",
            "graphics, but on RTX PRO Blackwell",
        ],
        Kind::Network => vec![
            "graphics",
            "Windows guests",
            "NVLink and NCCL between VMs",
            "a round trip for each call that waits",
            "sessions over a break of the network",
        ],
    }
}

/// The smallest change with which a way fits.
fn nearest(q: &Question) -> Option<String> {
    let first = |changed: &Question, what: &str| {
        let advice = Kind::ALL.map(|way| judged(changed, way));
        let order = ranking(changed);
        let best =
            advice.iter().filter(|w| w.fits).min_by_key(|w| order.iter().position(|kind| *kind == w.way))?;
        let profile = best.profile.map(|p| format!(", {}", vgpu_types::plain(p.profile))).unwrap_or_default();
        Some(format!("{what}: then {}{profile}", best.way.title()))
    };
    let mut changed = q.clone();
    let products: [(Product, &str); 2] = match q.computes() && q.guest == Guest::Linux {
        true => [(Product::Compute, "NVIDIA AI Enterprise"), (Product::Workstation, "RTX vWS")],
        false => [(Product::Workstation, "RTX vWS"), (Product::Compute, "NVIDIA AI Enterprise")],
    };
    for (product, name) in products {
        changed.license = License { nvidia: Some(Some(product)), old_compute: false, ..q.license };
        if let Some(found) = first(&changed, &format!("a license of {name}")) {
            return Some(found);
        }
    }
    changed.license = q.license;
    for (esxi, name) in [("6.7.3", "6.7 U3"), ("7.0.3", "7.0 U3"), ("8.0.3", "8.0 U3"), ("9.0", "9.0")] {
        if q.esxi.as_deref().is_some_and(|now| !vsgpu_host_agent::facts::EsxVersion::at_least(now, esxi)) {
            changed.esxi = Some(esxi.into());
            if let Some(found) = first(&changed, &format!("ESXi {name}")) {
                return Some(found);
            }
        }
    }
    changed.esxi.clone_from(&q.esxi);
    for users in (q.users.div_ceil(2)..q.users).rev() {
        changed.users = users;
        if let Some(found) =
            first(&changed, &format!("{} on a GPU instead of {}", counted(users as usize, "VM"), q.users))
        {
            return Some(found);
        }
    }
    changed.users = q.users;
    for gpu in ["L40S", "A100-80", "H100-80", "RTX PRO 6000"] {
        changed.gpu = Some(gpu.into());
        if let Some(found) = first(&changed, &format!("another GPU, such as {gpu}")) {
            return Some(found);
        }
    }
    changed.gpu.clone_from(&q.gpu);
    for users in (1..q.users.div_ceil(2)).rev() {
        changed.users = users;
        let fewer = format!("{} on a GPU instead of {}", counted(users as usize, "VM"), q.users);
        if let Some(found) = first(&changed, &fewer) {
            return Some(found);
        }
    }
    changed.users = q.users;
    for need in &q.needs {
        changed.needs = q.needs.iter().copied().filter(|n| n != need).collect();
        let what = match need {
            Need::NoGpuInHost => "a GPU in the VM's own host".to_string(),
            need => format!("without `{}`", need.word()),
        };
        if let Some(found) = first(&changed, &what) {
            return Some(found);
        }
    }
    changed.needs.clone_from(&q.needs);
    if q.max_loss.is_some() {
        changed.max_loss = None;
        return first(&changed, "no way is published to lose so little; with more loss, or after measuring");
    }
    None
}
