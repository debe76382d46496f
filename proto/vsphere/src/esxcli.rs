//! esxcli through the API: for what has no method of its own. The answer is a document in a text; a refusal stands beside
//! it. It takes a role like an administrator's (facts: vsphere-api 8).

use crate::fault::Fault;
use crate::session::Session;
use crate::soap::{Ref, around, text};
use std::time::Duration;
use vsgpu_core::readers::xml::{Element, parse};
use vsgpu_core::text::piece;

/// Records of one answer.
const MOST: usize = 10_000;

/// One answer: its records, each with its fields in their order. A single value is a record with one field without a name.
pub type Records = Vec<Vec<(String, String)>>;

/// Runs `esxcli NAMESPACE COMMAND`. Arguments by their long names without hyphens.
///
/// # Errors
/// What esxcli or the server said, or why it is not heard.
pub fn run(
    session: &mut Session,
    host: &Ref,
    (namespace, command): (&[&str], &str),
    arguments: &[(String, String)],
    within: Duration,
) -> Result<Records, Fault> {
    let executer =
        session.within_session(|session| session.look("RetrieveManagedMethodExecuter", host, ""))?;
    let executer = executer.first().and_then(Ref::of);
    let executer = executer.ok_or_else(|| Fault::said("this host runs no esxcli through the API"))?;
    let call = text("moid", &format!("ha-cli-handler-{}", namespace.join("-")))
        + &text("version", "urn:vim25/5.0")
        + &text("method", &format!("vim.EsxCLI.{}.{command}", namespace.join(".")));
    let argument = |(name, value): &(String, String)| {
        // A document in a text: what is written is escaped twice.
        around("argument", &(text("name", name) + &text("val", &text(name, value))))
    };
    let arguments: String = arguments.iter().map(argument).collect();
    let found = session.long("ExecuteSoap", &executer, &(call + &arguments), within)?;
    let Some(found) = found.first() else { return Ok(vec![]) };
    if let Some(fault) = found.child("fault") {
        return Err(refusal(fault));
    }
    let Some(response) = found.child("response") else { return Ok(vec![]) };
    let document = parse(&response.text).map_err(|why| Fault::said(format!("esxcli's answer: {why}")))?;
    Ok(records(&document))
}

fn records(document: &Element) -> Records {
    let record = |of: &Element| -> Vec<(String, String)> {
        let field = |of: &Element| (piece(&of.name, 100), piece(&of.text, 1_000));
        of.children.iter().map(field).collect()
    };
    let list: Vec<&Element> = document.all("DataObject").collect();
    match (list.is_empty(), document.children.is_empty()) {
        (false, _) => list.into_iter().take(MOST).map(record).collect(),
        (true, false) => vec![record(document)],
        (true, true) if document.text.is_empty() => vec![],
        (true, true) => vec![vec![(String::new(), piece(&document.text, 1_000))]],
    }
}

/// esxcli's own words are a document in a text, too.
fn refusal(fault: &Element) -> Fault {
    let text = |name: &str| fault.child(name).map(|of| piece(&of.text, 2_000)).unwrap_or_default();
    let detail = parse(&fault.child("faultDetail").map(|of| of.text.clone()).unwrap_or_default()).ok();
    let errors = detail.iter().flat_map(|of| of.all("errMsg")).map(|of| piece(&of.text, 500));
    let mut said: Vec<String> = errors.collect();
    if said.is_empty() {
        said.push(text("faultMsg"));
    }
    Fault { kind: "EsxCLI".into(), said, privilege: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_forms_of_an_answer() {
        let read = |xml: &str| records(&parse(xml).unwrap());
        let list = r#"<obj xmlns="urn:vim25" xmlns:xsi="x" xsi:type="ArrayOfDataObject"><DataObject xsi:type="VimEsxCLInetworkvmlistVM"><Name>foo</Name><Networks>a</Networks><Networks>b</Networks></DataObject></obj>"#;
        assert_eq!(
            read(list),
            [[
                ("Name".to_string(), "foo".to_string()),
                ("Networks".into(), "a".into()),
                ("Networks".into(), "b".into())
            ]]
        );
        assert_eq!(read("<obj><DomainName></DomainName><HostName>esx</HostName></obj>")[0][1].1, "esx");
        assert_eq!(read("<obj>104180640288</obj>"), [[(String::new(), "104180640288".to_string())]]);
        assert_eq!(read("<obj/>"), Records::new());
        let fault = parse("<fault><faultMsg>EsxCLI.CLIFault.summary</faultMsg><faultDetail>&lt;obj&gt;&lt;errMsg&gt;[NoMatchError]&lt;/errMsg&gt;&lt;errMsg&gt;id=nosuch&lt;/errMsg&gt;&lt;/obj&gt;</faultDetail></fault>").unwrap();
        assert_eq!(refusal(&fault).said, ["[NoMatchError]", "id=nosuch"]);
    }
}
