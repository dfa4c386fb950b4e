// Starts the language server of netc, `netc lsp`, for .net files.

const { window, workspace } = require("vscode");
const { LanguageClient } = require("vscode-languageclient/node");

let client;

exports.activate = async function () {
  const [command, ...args] = workspace.getConfiguration("netc").get("command");
  const documents = { documentSelector: [{ language: "netc" }], synchronize: { fileEvents: workspace.createFileSystemWatcher("**/*.net") } };
  client = new LanguageClient("netc", "netc", { command, args }, documents);
  try {
    await client.start();
  } catch (error) {
    window.showWarningMessage(`netc: the language server did not start (${command}): pip install 'netc[lsp]', or set netc.command. ${error}`);
  }
};

exports.deactivate = () => client && client.stop();
