import { decodeCoordinates, decodeExpression, valueAt } from "../../frontend/src/viewer/expression";

// Streams as the server writes them: three spots of a predicted gene, and two coordinates.
const EXPRESSION =
  "/////1gCAAAQAAAAAAAKAA4ABgAFAAgACgAAAAABBAAQAAAAAAAKAAwAAAAEAAgACgAAAOABAAAEAAAACwAAALABAABs" +
  "AQAAQAEAABgBAAD0AAAA1AAAAKQAAACEAAAAVAAAACwAAAAEAAAAhP7//xQAAAAEAAAABAAAADAuMjUAAAAABwAAAHBl" +
  "YXJzb24AqP7//xQAAAAEAAAABwAAAFBBU1QgdjIABQAAAG1vZGVsAAAAzP7//yAAAAAEAAAAEgAAADUuNjAwMDAwMDAw" +
  "MDAwMDAwNQAAAwAAAHA5OQD4/v//EAAAAAQAAAADAAAAMC41AAMAAABwMDEAFP///yAAAAAEAAAAEgAAADUuNjAwMDAw" +
  "MDAwMDAwMDAwNQAAAwAAAG1heABA////EAAAAAQAAAADAAAAMC41AAMAAABtaW4AXP///xAAAAAEAAAAAwAAADAuNQAG" +
  "AAAAb2Zmc2V0AAB8////FAAAAAQAAAAEAAAAMC4wMgAAAAAFAAAAc2NhbGUAAACg////GAAAAAQAAAAJAAAAcHJlZGlj" +
  "dGVkAAAABgAAAG9yaWdpbgAAyP///ygAAAAEAAAAGAAAAGxvZzFwKGNvdW50cyBwZXIgMTAsMDAwKQAAAAAEAAAAdW5p" +
  "dAAAAAAIAAwABAAIAAgAAAAUAAAABAAAAAUAAABFUkJCMgAAAAYAAABzeW1ib2wAAAEAAAAUAAAAEAAUAAgABgAHAAwA" +
  "AAAQABAAAAAAAAECEAAAABwAAAAEAAAAAAAAAAUAAAB2YWx1ZQAGAAgABAAGAAAACAAAAAAAAAD/////iAAAABQAAAAA" +
  "AAAADAAWAAYABQAIAAwADAAAAAADBAAYAAAACAAAAAAAAAAAAAoAGAAMAAQACAAKAAAAPAAAABAAAAADAAAAAAAAAAAA" +
  "AAACAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAwAAAAAAAAAAAAAAAQAAAAMAAAAAAAAAAAAAAAAAAAAAM/8AAAAA" +
  "AP////8AAAAA";
const COORDINATES =
  "/////6AAAAAQAAAAAAAKAAwABgAFAAgACgAAAAABBAAMAAAACAAIAAAABAAIAAAABAAAAAIAAABAAAAABAAAANj///8A" +
  "AAEDEAAAABQAAAAEAAAAAAAAAAEAAAB5AAAAyv///wAAAQAQABQACAAGAAcADAAAABAAEAAAAAAAAQMQAAAAGAAAAAQA" +
  "AAAAAAAAAQAAAHgABgAIAAYABgAAAAAAAQAAAAAA/////7gAAAAUAAAAAAAAAAwAFgAGAAUACAAMAAwAAAAAAwQAGAAA" +
  "ABAAAAAAAAAAAAAKABgADAAEAAgACgAAAFwAAAAQAAAAAgAAAAAAAAAAAAAABAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA" +
  "AAAAAAgAAAAAAAAACAAAAAAAAAAAAAAAAAAAAAgAAAAAAAAACAAAAAAAAAAAAAAAAgAAAAIAAAAAAAAAAAAAAAAAAAAC" +
  "AAAAAAAAAAAAAAAAAAAAAADAPxBQQ0gAAEBAAACAQP////8AAAAA";

const bytes = (base64: string): Uint8Array => Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));

describe("Arrow streams", () => {
  it("carry one byte a row and what it means", () => {
    const gene = decodeExpression(bytes(EXPRESSION));
    expect(gene).toMatchObject({
      symbol: "ERBB2",
      unit: "log1p(counts per 10,000)",
      origin: "predicted",
      model: "PAST v2",
      scale: 0.02,
      offset: 0.5,
      min: 0.5,
      pearson: 0.25,
    });
    expect(gene.max).toBeCloseTo(5.6, 9);
    expect([...gene.bytes]).toEqual([0, 51, 255]);
    [0.5, 1.52, 5.6].forEach((value, row) => expect(valueAt(gene, row)).toBeCloseTo(value, 9));
  });

  it("carry coordinates in row order", () => {
    const { x, y } = decodeCoordinates(bytes(COORDINATES));
    expect([...x]).toEqual([1.5, 200000.25]);
    expect([...y]).toEqual([3, 4]);
  });

  it("are refused where a column is missing", () => {
    expect(() => decodeExpression(bytes(COORDINATES))).toThrow(/value/);
    expect(() => decodeCoordinates(bytes(EXPRESSION))).toThrow(/x or y/);
  });
});
