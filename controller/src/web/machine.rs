//! One host, one guest, or one VM that only its host knows: all that is known of it, what needs a person first.

use crate::monitoring::top::{Gpu, Node, Severity, Vgpu, of_vgpu, parts};
use crate::node::NodeKind;
use crate::picture::Palette;
use crate::web::fleet::{Shown, gpu, guest_marks, host_marks, needs_table};
use crate::web::frame::{mark, seen};
use crate::web::links::{self, Place};
use maud::{Markup, html};

/// GPUs and guests of one machine that are shown.
const MOST: usize = 256;

fn needs(shown: &Shown<'_>, kind: NodeKind, name: &str) -> Markup {
    let own: Vec<_> = shown
        .needs
        .iter()
        .filter(|need| need.machine.as_ref().is_some_and(|m| m.kind == kind && m.name == name))
        .cloned()
        .collect();
    html! {
        @if own.is_empty() { p { (mark(Severity::Fine, "nothing needs anybody here")) } } @else { (needs_table(Place::Site, &own)) }
    }
}

fn gpus(all: &[Gpu], fresh: bool) -> Markup {
    let drawn: Vec<_> = all.iter().flat_map(parts).collect();
    let palette = Palette::of(drawn.iter());
    html! {
        @if !all.is_empty() {
            h2 { "GPUs" }
            ul.gpus { @for one in all.iter().take(MOST) { (gpu(Place::Site, one, &palette, fresh)) } }
        }
    }
}

/// What is not as the fleet file says, and how much is.
fn wishes(node: &Node) -> Markup {
    html! {
        h2 { "As the fleet file says" }
        @match &node.wishes {
            None => p { "Nothing is known of it: no run has told this agent what the file says. " code { "vsgpu verify" } " asks." },
            Some(wishes) if node.unmet.is_empty() => p { "All of it: " (wishes.of) " requirements." },
            Some(wishes) => {
                p { (wishes.met) " of " (wishes.of) " requirements are met. Not met:" }
                ul { @for what in node.unmet.iter().take(MOST) { li { (what) } } }
            }
        }
    }
}

pub fn host(shown: &Shown<'_>, name: &str) -> Option<Markup> {
    let node = shown.fleet.hosts.iter().find(|node| node.name == name)?;
    let mut here: Vec<&Node> =
        shown.fleet.guests.iter().filter(|guest| guest.host.as_deref() == Some(name)).collect();
    let cut = here.len().saturating_sub(MOST);
    here.truncate(MOST);
    Some(html! {
        h1 { "Host " (name) }
        p { (host_marks(node)) " " (seen(node.age_secs.map(|age| age + shown.since))) }
        (needs(shown, NodeKind::Host, name))
        (gpus(&node.gpus, node.reachable))
        @if !here.is_empty() {
            h2 { "Guests" }
            @if cut > 0 { p { "the first " (MOST) "; " (cut) " more are on the first page" } }
            ul { @for guest in here { li { (links::guest(Place::Site, &guest.name)) " " (guest_marks(guest)) } } }
        }
        (wishes(node))
    })
}

pub fn guest(shown: &Shown<'_>, vm: Option<&str>, name: &str) -> Option<Markup> {
    let node = shown.fleet.guests.iter().find(|node| node.name == name)?;
    let of_host = node.host.as_ref().and_then(|host| shown.fleet.hosts.iter().find(|n| n.name == *host));
    let given: Vec<(&Gpu, String)> = match (of_host, vm) {
        (Some(host), Some(vm)) => of_vm(host, vm).collect(),
        _ => vec![],
    };
    Some(html! {
        h1 { "Guest " (name) }
        p { (guest_marks(node)) " " (seen(node.age_secs.map(|age| age + shown.since))) }
        p {
            @match (&node.host, &node.file_host) {
                (Some(host), Some(file)) => { "It runs on " (links::host(Place::Site, host)) "; the fleet file says " (file) "." }
                (Some(host), None) => { "It runs on " (links::host(Place::Site, host)) "." }
                (None, _) => "On which host it runs is not known.",
            }
        }
        (needs(shown, NodeKind::Guest, name))
        @if !given.is_empty() {
            h2 { "From its host" }
            (given_by(&given))
        }
        (gpus(&node.gpus, node.reachable))
        @if let Some(servers) = &node.gpu_servers { p { "GPUs over the network: it can use " (servers.usable) " of " (servers.of) " servers." } }
        @if let Some(server) = &node.gpu_server {
            h2 { "GPU server" }
            p { (server.free) " of " (server.gpus) " GPUs are free; " (server.waiting) " wait for one." }
        }
        (wishes(node))
    })
}

/// What a host gives a VM, by its display name: the GPU, and what of it.
fn of_vm<'a>(host: &'a Node, vm: &'a str) -> impl Iterator<Item = (&'a Gpu, String)> {
    host.gpus.iter().flat_map(move |gpu| {
        let license = |vgpu: &Vgpu| match vgpu.licensed {
            Some(true) => ", licensed, as the host says",
            Some(false) => ", UNLICENSED, as the host says",
            None => "",
        };
        let vgpus = gpu.vgpus.iter().filter(move |vgpu| vgpu.vm == vm);
        let vgpus = vgpus.map(move |vgpu| (gpu, of_vgpu(vgpu) + license(vgpu)));
        let whole =
            gpu.vms.iter().filter(move |user| *user == vm).map(move |_| (gpu, "the whole GPU".to_string()));
        let one_of = gpu.one_of.iter().filter(move |user| *user == vm);
        vgpus
            .chain(whole)
            .chain(one_of.map(move |_| (gpu, "perhaps the whole GPU: vSphere picked one of several".into())))
    })
}

fn given_by(given: &[(&Gpu, String)]) -> Markup {
    html! {
        ul {
            @for (gpu, what) in given.iter().take(MOST) {
                li { (what) ", on " code { (gpu.gpu) } @if let Some(name) = &gpu.name { " " (name) } }
            }
        }
    }
}

/// A VM by its display name, as its hosts know it: also one that the fleet file does not name. `guest`: its name in the
/// fleet file.
pub fn vm(shown: &Shown<'_>, guest: Option<&str>, name: &str) -> Option<Markup> {
    let hosts = shown.fleet.hosts.iter().map(|host| (host, of_vm(host, name).collect::<Vec<_>>()));
    let hosts: Vec<(&Node, Vec<(&Gpu, String)>)> = hosts.filter(|(_, given)| !given.is_empty()).collect();
    if hosts.is_empty() {
        return None;
    }
    Some(html! {
        h1 { "VM " (name) }
        @match guest {
            Some(guest) => p { "Its driver, license and proof: " (links::guest(Place::Site, guest)) "." },
            None => p { "The fleet file names no guest with this VM: only its host tells of it." },
        }
        @for (host, given) in hosts {
            h2 { "On " (links::host(Place::Site, &host.name)) }
            p { (seen(host.age_secs.map(|age| age + shown.since))) }
            (given_by(&given))
        }
    })
}
