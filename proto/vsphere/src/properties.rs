//! Properties of many objects with few calls: a container view lists them, pages come until there are no more. A
//! property that may not be read is missing with its own fault, while the rest is there.

use crate::fault::Fault;
use crate::session::Session;
use crate::soap::{Ref, around, object, text, typed};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use vsgpu_core::readers::xml::Element;

/// Objects of one page.
const PAGE: &str = "500";
/// Objects and elements of one listing: more than any vCenter has.
const MOST_OBJECTS: usize = 100_000;
const MOST_ELEMENTS: usize = 5_000_000;
/// Until one listing is complete.
const LISTING: Duration = Duration::from_secs(300);
/// Objects of one call where each is small.
const SMALL: usize = 500;

/// An object with what was asked of it.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub of: Ref,
    /// By the property's path.
    pub values: BTreeMap<String, Element>,
    /// Why others are not there.
    pub missing: BTreeMap<String, Fault>,
}

impl Object {
    pub fn text(&self, path: &str) -> Option<&str> {
        self.values.get(path).map(|value| value.text.as_str())
    }

    pub fn reference(&self, path: &str) -> Option<Ref> {
        self.values.get(path).and_then(Ref::of)
    }

    pub fn references(&self, path: &str) -> Vec<Ref> {
        self.values
            .get(path)
            .map(|value| value.children.iter().filter_map(Ref::of).collect())
            .unwrap_or_default()
    }
}

impl Session {
    /// All objects of one type below the root folder, with these properties.
    ///
    /// # Errors
    /// What the server said, or why it is not heard.
    pub(crate) fn all(&mut self, kind: &str, paths: &[&str]) -> Result<Vec<Object>, Fault> {
        self.within_session(|session| session.all_once(kind, paths))
    }

    fn all_once(&mut self, kind: &str, paths: &[&str]) -> Result<Vec<Object>, Fault> {
        let (views, root) = (self.named("viewManager")?, self.named("rootFolder")?);
        let arguments = object("container", &root) + &text("type", kind) + &text("recursive", "true");
        let view = self.look("CreateContainerView", &views, &arguments)?;
        let view = view.first().and_then(Ref::of).ok_or_else(|| Fault::unheard("the server gave no view"))?;
        let select = typed(
            "selectSet",
            "TraversalSpec",
            &(text("type", "ContainerView") + &text("path", "view") + &text("skip", "false")),
        );
        let objects = around("objectSet", &(object("obj", &view) + &text("skip", "true") + &select));
        let found = self.retrieve(kind, paths, &objects);
        let _ = self.look("DestroyView", &view, "");
        found
    }

    /// These objects, with these properties.
    ///
    /// # Errors
    /// What the server said, or why it is not heard.
    pub(crate) fn of(&mut self, objects: &[Ref], paths: &[&str]) -> Result<Vec<Object>, Fault> {
        self.of_some(objects, paths, SMALL)
    }

    /// The same with so many objects in one call: an answer has at most 300,000 elements, and a host alone may have
    /// thousands.
    pub(crate) fn of_some(
        &mut self,
        objects: &[Ref],
        paths: &[&str],
        at_once: usize,
    ) -> Result<Vec<Object>, Fault> {
        let mut found = vec![];
        for part in objects.chunks(at_once) {
            let set: String = part.iter().map(|of| around("objectSet", &object("obj", of))).collect();
            found.extend(self.within_session(|session| session.retrieve(&part[0].kind, paths, &set))?);
        }
        Ok(found)
    }

    /// The same without those that are gone or not seen: one of them refuses a whole question.
    pub(crate) fn of_those_there(&mut self, objects: &[Ref], paths: &[&str]) -> Result<Vec<Object>, Fault> {
        let gone = |fault: &Fault| ["ManagedObjectNotFound", "NoPermission"].contains(&fault.kind.as_str());
        match self.of(objects, paths) {
            Err(fault) if gone(&fault) => {}
            other => return other,
        }
        let mut found = vec![];
        for one in objects {
            match self.of(std::slice::from_ref(one), paths) {
                Ok(objects) => found.extend(objects),
                Err(fault) if gone(&fault) => {}
                Err(fault) => return Err(fault),
            }
        }
        Ok(found)
    }

    fn retrieve(&mut self, kind: &str, paths: &[&str], objects: &str) -> Result<Vec<Object>, Fault> {
        let paths: String = paths.iter().map(|path| text("pathSet", path)).collect();
        let properties = around("propSet", &(text("type", kind) + &text("all", "false") + &paths));
        let arguments =
            around("specSet", &(properties + objects)) + &around("options", &text("maxObjects", PAGE));
        let collector = self.named("propertyCollector")?;
        #[expect(clippy::disallowed_methods, reason = "a deadline over many calls")]
        let (begun, now) = (Instant::now(), Instant::now);
        let mut page = self.look("RetrievePropertiesEx", &collector, &arguments)?;
        let (mut found, mut elements) = (vec![], 0);
        loop {
            // Nothing at all is found: there is no `returnval` then.
            let Some(result) = page.into_iter().next() else { return Ok(found) };
            elements += result.descendants().count();
            for object in result.all("objects").filter_map(read) {
                // An ended session is no fault of the call here: it stands at each property.
                if let Some(ended) = object.missing.values().find(|fault| fault.is_not_authenticated()) {
                    return Err(ended.clone());
                }
                found.push(object);
            }
            let Some(token) = result.child("token") else { return Ok(found) };
            if found.len() > MOST_OBJECTS || elements > MOST_ELEMENTS || now() - begun > LISTING {
                return Err(Fault::unheard("the server's list does not end"));
            }
            page = self.look("ContinueRetrievePropertiesEx", &collector, &text("token", &token.text))?;
        }
    }
}

fn read(content: &Element) -> Option<Object> {
    let of = content.child("obj").and_then(Ref::of)?;
    let pair = |set: &Element| Some((set.child("name")?.text.clone(), set.child("val")?.clone()));
    let lacks =
        |set: &Element| Some((set.child("path")?.text.clone(), Fault::localized(set.child("fault")?)));
    Some(Object {
        of,
        values: content.all("propSet").filter_map(pair).collect(),
        missing: content.all("missingSet").filter_map(lacks).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use vsgpu_core::readers::xml::parse;

    #[test]
    fn what_is_missing_is_told_from_what_is_unset() {
        let xml = "<objects><obj type=\"HostSystem\">host-14</obj><propSet><name>name</name><val>esx-01</val></propSet><missingSet><path>hardware.pciDevice</path><fault><fault type=\"NoPermission\"><privilegeId>System.Read</privilegeId></fault><localizedMessage>no</localizedMessage></fault></missingSet></objects>";
        let object = read(&parse(xml).unwrap()).unwrap();
        assert_eq!(object.text("name"), Some("esx-01"));
        assert_eq!(object.text("parent"), None);
        assert_eq!(object.missing["hardware.pciDevice"].privilege.as_deref(), Some("System.Read"));
    }
}
